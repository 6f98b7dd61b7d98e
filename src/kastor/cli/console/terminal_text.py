"""A console that shows text of datasets, models and servers and obeys none of it."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from kastor.domain.visible_text import visible_text


class VisibleConsole(Console):
    """A console whose texts go through `visible_text`, whatever they are rendered from; its own colours do not."""

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401  # as they are handed on
        """As of any console; symbols are put in before the text is laid out."""
        return super().render_str(visible_text(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As of any console."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(visible_text(segment.text), segment.style)

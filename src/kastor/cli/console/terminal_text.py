"""A console that prints control characters of untrusted text visibly instead of obeying them."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from kastor.domain.visible_text import visible_text


class VisibleConsole(Console):
    """A console that passes all text, but not its own colour codes, through `visible_text`."""

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401  # as they are handed on
        """Render a string; characters are replaced before the text is laid out."""
        return super().render_str(visible_text(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything else."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(visible_text(segment.text), segment.style)

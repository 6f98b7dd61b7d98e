"""The examples that the gate accepted, as training takes them: rendered from disk each time, exactly as planned."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from kastor.dataset.formats.parse import decode_example
from kastor.dataset.validation.example_plan import PlannedRow, decode_row
from kastor.domain.content import Example, Media
from kastor.domain.errors import Internal
from kastor.domain.vision import MediumPlan, TokenCount
from kastor.models.chat.render import RenderedExample, Renderer

KeyOf = Callable[[MediumPlan], str]


@dataclass(frozen=True, slots=True)
class PreparedFiles:
    """Where a job's examples and their plans lie, line by line."""

    dataset: Path
    plan: Path

    def plans(self) -> Iterator[tuple[int, int, PlannedRow]]:
        """Of each example the offsets of its line and of its plan's, and the plan."""
        with self.dataset.open("rb") as examples, self.plan.open("rb") as plans:
            at = (0, 0)
            for example, plan in zip(examples, plans, strict=True):
                yield *at, decode_row(plan)
                at = (at[0] + len(example), at[1] + len(plan))

    def media(self) -> Iterator[tuple[Media, MediumPlan]]:
        """The media of all examples with their plans, as often as they occur."""
        for at, _, row in self.plans():
            if row.media:
                yield from row.by_media(self.example(at)).items()

    def example(self, offset: int) -> Example:
        """The example whose line begins there."""
        return decode_example(_line(self.dataset, offset))

    def row(self, offset: int) -> PlannedRow:
        """The plan whose line begins there."""
        return decode_row(_line(self.plan, offset))


class MediumLocation(NamedTuple):
    """Where a medium is first shown: the `place`-th of the row's; and how many pictures it has."""

    row: int
    place: int
    num_pictures: int


class RenderedExamples(Sequence[RenderedExample]):
    """The examples of a dataset with media, rendered from disk at every access.

    `key_of` gives the key of a medium's features. Only the offsets of lines are held in memory, so the size does not
    grow with the number of frames.
    """

    def __init__(self, files: PreparedFiles, renderer: Renderer, key_of: KeyOf) -> None:
        """Check every example against its plan.

        Raises:
            Internal: an example differs from its plan; names the line.

        """
        self._files = files
        self._renderer = renderer
        self._key_of = key_of
        self.media: dict[str, MediumLocation] = {}  # by key, in the order in which they first occur
        places: list[tuple[int, int]] = []
        self.tokens = TokenCount(0, 0)  # of all examples
        for at, plan_at, planned in files.plans():
            render_planned(files.example(at), planned, renderer)
            for index, medium in enumerate(planned.media):
                self.media.setdefault(key_of(medium), MediumLocation(len(places), index, medium.view.num_pictures))
            places.append((at, plan_at))
            self.tokens = _sum(self.tokens, planned.tokens)
        self._places = np.array(places, np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> RenderedExample: ...

    @overload
    def __getitem__(self, index: slice) -> list[RenderedExample]: ...

    def __getitem__(self, index: int | slice) -> RenderedExample | list[RenderedExample]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        at, plan_at = self._places[index].tolist()
        return self._rendered(self._files.example(at), self._files.row(plan_at))

    def from_plan(self, index: int) -> PlannedRow:
        """The plan of an example."""
        return self._files.row(int(self._places[index, 1]))

    def medium(self, shown: MediumLocation) -> tuple[Media, MediumPlan]:
        """A medium as its example names it, and its plan."""
        media = dict.fromkeys(self._files.example(int(self._places[shown.row, 0])).media)
        return list(media)[shown.place], self.from_plan(shown.row).media[shown.place]

    def _rendered(self, example: Example, planned: PlannedRow) -> RenderedExample:
        rendered = render_planned(example, planned, self._renderer)
        return rendered.keyed({media: self._key_of(medium) for media, medium in planned.by_media(example).items()})


def load_text_examples(files: PreparedFiles, renderer: Renderer) -> tuple[list[RenderedExample], TokenCount]:
    """All examples of a dataset without media, each rendered once and held in memory, and their tokens.

    Raises:
        Internal: an example differs from its plan; names the line.

    """
    examples, tokens = [], TokenCount(0, 0)
    for at, _, planned in files.plans():
        examples.append(render_planned(files.example(at), planned, renderer))
        tokens = _sum(tokens, planned.tokens)
    return examples, tokens


def render_planned(example: Example, planned: PlannedRow, renderer: Renderer) -> RenderedExample:
    """The example as tokens.

    Raises:
        Internal: the token counts differ from the plan; names the line.

    """
    rendered = renderer.example(example, planned.views(example))
    if TokenCount(len(rendered.token_ids), rendered.num_supervised) != planned.tokens:
        raise Internal(
            f"Line {planned.line} became {len(rendered.token_ids)} tokens, {rendered.num_supervised} of "
            f"them supervised; planned were {planned.tokens.total} and {planned.tokens.supervised}."
        )
    return rendered


def _sum(one: TokenCount, other: TokenCount) -> TokenCount:
    return TokenCount(one.total + other.total, one.supervised + other.supervised)


def _line(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.readline()

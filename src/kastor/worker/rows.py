"""The examples that the gate accepted, as training takes them: rendered from disk each time, exactly as planned."""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np

from kastor.dataset.manifest import PlannedRow, decode_row
from kastor.dataset.parse import decode_example
from kastor.domain.content import Example
from kastor.domain.errors import Internal
from kastor.domain.vision import PlannedMedium, TokenCount
from kastor.models.render import Rendered, Renderer

KeyOf = Callable[[PlannedMedium], str]


@dataclass(frozen=True, slots=True)
class Files:
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

    def example(self, offset: int) -> Example:
        """The example whose line begins there."""
        return decode_example(_line(self.dataset, offset))

    def row(self, offset: int) -> PlannedRow:
        """The plan whose line begins there."""
        return decode_row(_line(self.plan, offset))


class Rows(Sequence[Rendered]):
    """The examples without those that show a medium of `left_out` (hashes of content).

    `key_of` gives the keys of their pictures' features, and may be absent where there are none.
    Held in memory are but the places of their lines, so that it stays the same size however many frames there are.
    """

    def __init__(
        self, files: Files, renderer: Renderer, key_of: KeyOf | None = None, left_out: Set[str] = frozenset()
    ) -> None:
        """See to it that every example is what was planned.

        Raises:
            Internal: one is not; names the line.

        """
        self._files = files
        self._renderer = renderer
        self._key_of = key_of
        self.media: dict[str, int] = {}  # key -> pictures, of all media, in the order in which they first occur
        places, total, supervised = [], 0, 0
        for at, plan_at, planned in files.plans():
            if any(medium.sha256 in left_out for medium in planned.media):
                continue
            self._rendered(files.example(at), planned)
            places.append((at, plan_at))
            if key_of is not None:
                self.media |= {key_of(medium): medium.view.num_pictures for medium in planned.media}
            total, supervised = total + planned.tokens.total, supervised + planned.tokens.supervised
        self._places = np.array(places, np.int64).reshape(-1, 2)
        self.tokens = TokenCount(total, supervised)  # of all examples

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Rendered: ...

    @overload
    def __getitem__(self, index: slice) -> list[Rendered]: ...

    def __getitem__(self, index: int | slice) -> Rendered | list[Rendered]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        at, plan_at = self._places[index].tolist()
        return self._rendered(self._files.example(at), self._files.row(plan_at))

    def pictures(self, most: int) -> list[tuple[str, int]]:
        """Key and index of `most` pictures, evenly from all of them; all, where they are fewer."""
        ends = np.array(list(accumulate(self.media.values())), np.int64)
        keys, num_pictures = list(self.media), int(ends[-1]) if len(ends) else 0
        chosen = np.unique(np.linspace(0, num_pictures - 1, min(most, num_pictures)).round().astype(np.int64))
        media = np.searchsorted(ends, chosen, side="right")
        before = ends[media] - np.array([self.media[keys[medium]] for medium in media], np.int64)
        return [(keys[medium], int(index)) for medium, index in zip(media, chosen - before, strict=True)]

    def _rendered(self, example: Example, planned: PlannedRow) -> Rendered:
        by_media = planned.by_media(example)
        rendered = self._renderer.example(example, planned.views(example))
        if TokenCount(len(rendered.token_ids), rendered.num_supervised) != planned.tokens:
            raise Internal(
                f"Line {planned.line} became {len(rendered.token_ids)} tokens, {rendered.num_supervised} of "
                f"them supervised; planned were {planned.tokens.total} and {planned.tokens.supervised}."
            )
        if self._key_of is None:
            return rendered
        return rendered.keyed({media: self._key_of(medium) for media, medium in by_media.items()})


def _line(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.readline()

"""The pictures of a planned medium: under which names they and their features are kept, and their pixels."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from kastor.domain.vision import PlannedMedium, Vision
from kastor.media import decode
from kastor.media.compiled import FrameStore, frames_key
from kastor.models.vision import Pixels, feature_key


def stored_under(medium: PlannedMedium, vision: Vision, tower: str) -> str:
    """The key of the features; `tower` is the hash of its weights."""
    return feature_key(medium.sha256, _numbers(medium), _side(medium, vision), tower)


def compiled_under(medium: PlannedMedium, vision: Vision) -> str:
    """The key of the pictures, whatever tower looks at them."""
    side = _side(medium, vision)
    return frames_key(medium.sha256, _numbers(medium), (side, side))


def compiled(
    frames: FrameStore,
    path: Path,
    medium: PlannedMedium,
    vision: Vision,
    pictures: decode.Pictures,
    heed: Callable[[], None] = lambda: None,
) -> Sequence[Pixels]:
    """The planned pictures of the medium at `path`, scaled for the tower, (S, S, 3) each; decoded if they are not kept.

    `heed` is called before each is decoded, and may raise.

    Raises:
        BadMedium: it is damaged, or asks for too much.
        FailedPrecondition: what is kept of it is damaged.

    """
    side = _side(medium, vision)
    shape = (medium.view.num_pictures, side, side)
    decoded = partial(_decoded, path, medium, side, pictures)
    return frames.kept(compiled_under(medium, vision), shape, lambda: _heeding(heed, decoded()))


def _heeding(heed: Callable[[], None], pictures: Iterator[Pixels]) -> Iterator[Pixels]:
    heed()
    for picture in pictures:
        yield picture
        heed()


def _decoded(path: Path, medium: PlannedMedium, side: int, pictures: decode.Pictures) -> Iterator[Pixels]:
    if medium.frames is not None:
        for frame in decode.frames(path, medium.frames, (side, side)):
            yield frame.pixels
        return
    for page in range(medium.view.num_pictures):
        yield pictures.picture(path, (side, side), page=page)


def _numbers(medium: PlannedMedium) -> list[int]:
    """Which pictures of the medium are looked at."""
    return list(range(medium.view.num_pictures) if medium.frames is None else medium.frames.pts)


def _side(medium: PlannedMedium, vision: Vision) -> int:
    return vision.size[medium.view.resolution]

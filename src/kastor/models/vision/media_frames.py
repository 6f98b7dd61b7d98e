"""The pictures of a planned medium: under which names they and their features are kept, and their pixels."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from kastor.domain.vision import MediumPlan, VisionSpec
from kastor.media import decode
from kastor.media.frame_store import FrameStore, frames_key
from kastor.models.vision.encoder import Pixels, feature_key


def medium_feature_key(medium: MediumPlan, tower: str) -> str:
    """The key of the features; `tower` is the hash of its weights."""
    return feature_key(medium.sha256, _numbers(medium), medium.view.grids, tower, medium.scaling)


def medium_frames_key(medium: MediumPlan, vision: VisionSpec) -> str:
    """The key of the pictures, whatever tower looks at them."""
    return frames_key(medium.sha256, _numbers(medium), _sizes(medium), vision.resample, medium.scaling)


def load_frames(
    frames: FrameStore,
    path: Path,
    medium: MediumPlan,
    vision: VisionSpec,
    pictures: decode.PictureDecoder,
    heed: Callable[[], None] = lambda: None,
) -> Sequence[Pixels]:
    """The planned pictures of the medium at `path`, scaled as they are laid out; decoded if they are not kept.

    `heed` is called before each is decoded, and may raise.

    Raises:
        MediumError: it is damaged, or asks for too much.
        FailedPrecondition: what is kept of it is damaged.

    """
    made = partial(decode_frames, path, medium, vision, pictures)
    return frames.get(medium_frames_key(medium, vision), _sizes(medium), lambda: _heeding(heed, made()))


def _heeding(heed: Callable[[], None], pictures: Iterator[Pixels]) -> Iterator[Pixels]:
    heed()
    for picture in pictures:
        yield picture
        heed()


def decode_frames(
    path: Path, medium: MediumPlan, vision: VisionSpec, pictures: decode.PictureDecoder
) -> Iterator[Pixels]:
    """The planned pictures of the medium at `path`, as `load_frames` gives them, decoded whatever is kept.

    Raises:
        MediumError: it is damaged, or asks for too much.

    """
    sizes, resample = _sizes(medium), vision.resample
    if medium.frames is not None:
        for frame in decode.request_frames(path, medium.frames, sizes[0], resample=resample):
            yield frame.pixels
        return
    for page, size in enumerate(sizes):
        yield pictures.picture(path, size, page=page, resample=resample, scaling=medium.scaling)


def _numbers(medium: MediumPlan) -> list[int]:
    """Which pictures of the medium are looked at."""
    return list(range(medium.view.num_pictures) if medium.frames is None else medium.frames.pts)


def _sizes(medium: MediumPlan) -> list[tuple[int, int]]:
    """Width and height of each."""
    return [(grid.width, grid.height) for grid in medium.view.grids]

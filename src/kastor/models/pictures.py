"""The pictures of a planned medium: the name under which their features are kept, and the pixels these are made of."""

from collections.abc import Sequence
from pathlib import Path

from kastor.domain.vision import PlannedMedium, Vision
from kastor.media import decode
from kastor.models.vision import Pixels, feature_key


def stored_under(medium: PlannedMedium, tower: str) -> str:
    """The key of the features; `tower` is the hash of its weights."""
    view = medium.view
    pictures: Sequence[int] = range(view.num_pictures) if medium.frames is None else medium.frames.pts
    return feature_key(medium.sha256, list(pictures), view.grids, tower)


def pixels_of(path: Path, medium: PlannedMedium, vision: Vision, pictures: decode.Pictures) -> list[Pixels]:
    """The planned pictures of the medium at `path`, scaled as they are laid out, (height, width, 3) each.

    Raises:
        BadMedium: it is damaged, or asks for too much.

    """
    sizes, resample = [(grid.width, grid.height) for grid in medium.view.grids], vision.resample
    if medium.frames is not None:
        return [frame.pixels for frame in decode.frames(path, medium.frames, sizes[0], resample=resample)]
    return [pictures.picture(path, size, page=page, resample=resample) for page, size in enumerate(sizes)]

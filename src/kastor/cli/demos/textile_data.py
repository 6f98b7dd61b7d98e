"""Images of sound and faulty woven cloth from the package conformal-clip-data (MIT), downloaded once into the cache."""

import random
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from kastor.models.catalog import WheelSource
from kastor.models.download import OnProgress, download_wheel

SOURCE = WheelSource(
    package="conformal-clip-data",
    version="0.1.4",
    wheel_sha256="00144ccc179a887dbea15923be8cf236d0c0f49bf7fb6f7bb288e40b53fb1bcb",
    member="conformal_clip_data/data/textile_images/simulated",
)
CREDIT = "Images: conformal-clip-data 0.1.4, © 2025 Megahed, MIT licence."
LABELS = ("nominal", "local", "global")
NUM_EACH = 500  # images of each of the two rarer classes


@dataclass(frozen=True, slots=True)
class Picture:
    """An image and its class: sound cloth, a local fault or a global one."""

    path: Path
    label: str


def download_textiles(cache: Path, on_progress: OnProgress) -> Path:
    """The package's wheel, downloaded if it is not in `cache` yet. Safe to call from several processes at once.

    Raises:
        FailedPrecondition: the file does not match the pinned hash.
        Unavailable: the package index cannot be reached.

    """
    wheel = cache / "demo" / f"{SOURCE.package}-{SOURCE.version}.whl"
    wheel.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(wheel.with_suffix(".lock")):
        if not wheel.exists():
            with tempfile.TemporaryDirectory(dir=wheel.parent) as scratch:
                download_wheel(SOURCE, Path(scratch), on_progress).rename(wheel)
    return wheel


def sample_pictures(wheel: Path, folder: Path, num_each: int, seed: int) -> list[Picture]:
    """Unpack `num_each` images of each class into `folder`, in random order; file names repeat between classes."""
    source = random.Random(seed)  # noqa: S311  # sampling of images needs no secure randomness
    chosen = []
    with zipfile.ZipFile(wheel) as archive:
        for label in LABELS:
            (folder / label).mkdir(parents=True, exist_ok=True)
            names = sorted(name for name in archive.namelist() if name.startswith(f"{SOURCE.member}/{label}/"))
            for name in source.sample(names, num_each):
                path = folder / label / Path(name).name
                with archive.open(name) as packed, path.open("wb") as file:
                    shutil.copyfileobj(packed, file)
                chosen.append(Picture(path, label))
    source.shuffle(chosen)
    return chosen


def split_pictures(pictures: Sequence[Picture], num_each: int) -> tuple[list[Picture], list[Picture]]:
    """The first `num_each` pictures of each class, and all others.

    >>> held = [Picture(Path(name), name[0]) for name in ("a1", "b1", "a2", "b2")]
    >>> [[picture.path.name for picture in part] for part in split_pictures(held, 1)]
    [['a1', 'b1'], ['a2', 'b2']]
    """
    seen: dict[str, int] = {}
    first: list[Picture] = []
    others: list[Picture] = []
    for picture in pictures:
        seen[picture.label] = seen.get(picture.label, 0) + 1
        (first if seen[picture.label] <= num_each else others).append(picture)
    return first, others

"""Media as the pictures that models are shown: decoded once, kept as raw 8-bit RGB, mapped into memory where read.

One safetensors file for each medium and what is looked at of it, in a `MediaCache`: whole or not at all, for several
processes, least recently used out first. Whatever needs the pictures again (another tower, another job, a retry,
an answer) decodes nothing. Where there is no room they are handed on without being kept.

Shapes: H and W are a picture's height and width.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from kastor.domain.errors import FailedPrecondition, ResourceExhausted
from kastor.domain.media import Resampling
from kastor.media.cache import Lease, MediaCache
from kastor.media.frame_sampling import SCALING

TENSOR = "pictures"  # one after the other
SIZES = "sizes"
LENGTH = struct.Struct("<Q")
ALIGNMENT = 8  # of what follows the header

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
"""Width and height in pixels."""


def frames_key(
    sha256: str, pictures: Sequence[int], sizes: Sequence[Size], resample: Resampling, scaling: int = 0
) -> str:
    """Under which name the pictures of a medium are kept.

    Args:
        sha256: of the medium's content.
        pictures: presentation times of a video's frames, numbers of pages, (0,) of an image.
        sizes: width and height that each is scaled to.
        resample: by which filter.
        scaling: version of the rules that they are made by; 0 for the present one.

    """
    alike = [[*size, len(list(group))] for size, group in groupby(sizes)]
    said = json.dumps([scaling or SCALING, resample, alike, sha256, list(pictures)])
    return hashlib.sha256(said.encode()).hexdigest()


class StoredFrames(Sequence[Pixels]):
    """Kept pictures, each (H, W, 3), read from the mapped file as they are asked for."""

    def __init__(self, path: Path) -> None:
        """Open them.

        Raises:
            FailedPrecondition: the file is damaged.

        """
        try:
            mapped: Any = safe_open(path, framework="numpy")  # untyped
            self._pictures = mapped.get_slice(TENSOR)
            self._sizes = [(int(width), int(height)) for width, height in mapped.get_tensor(SIZES)]
            self._ends = list(accumulate(3 * width * height for width, height in self._sizes))
        except (OSError, SafetensorError) as error:
            raise FailedPrecondition(
                f"The pictures in {path} cannot be read ({error}): delete the file, and try again."
            ) from error

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...

    @overload
    def __getitem__(self, index: slice) -> list[Pixels]: ...

    def __getitem__(self, index: int | slice) -> Pixels | list[Pixels]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        width, height = self._sizes[index]
        end = self._ends[index]
        found: Pixels = self._pictures[end - 3 * width * height : end].reshape(height, width, 3)
        return found


class FrameStore:
    """Kept pictures on this machine's disk, shared by jobs and generation; what `lease` has asked for stays.

    `refused` is told, once, why pictures are not kept; from then on no more are.
    """

    def __init__(self, cache: MediaCache, lease: Lease, refused: Callable[[str], None] = lambda _: None) -> None:
        self._cache = cache
        self._lease = lease
        self._refused = refused
        self._full = False
        self._told = False

    def has(self, key: str) -> bool:
        """Whether the pictures are here now; they may go."""
        return self._cache.has(key)

    def hold(self, key: str) -> StoredFrames | None:
        """The pictures, which stay until `release`; `None` if they are not here."""
        found = self._cache.get(key, self._lease)
        return None if found is None else StoredFrames(found.path)

    def release(self, key: str) -> None:
        """Let go of one `hold` or `get`."""
        self._lease.release(key)

    def get(
        self, key: str, sizes: Sequence[Size], decoded: Callable[[], Iterable[Pixels]]
    ) -> StoredFrames | list[Pixels]:
        """The pictures, held; decoded if they are not here, and written as they come, each of its size.

        A list, in memory alone, where there is no room to keep them. Who asks for the same meanwhile waits for this.

        Raises:
            FailedPrecondition: what is kept is damaged.
            What `decoded` raises.

        """
        with self._cache.fetching(key):
            found = self.hold(key)
            if found is not None:
                return found
            if not self._full:
                try:
                    self._cache.check_size(_num_bytes(sizes))
                except ResourceExhausted as error:  # smaller ones may be kept
                    self._tell(error)
                    return list(decoded())
                try:
                    return StoredFrames(self._cache.put(_file(sizes, decoded()), self._lease, name=key).path)
                except ResourceExhausted as error:
                    self._full = True
                    self._tell(error)
            return list(decoded())

    def _tell(self, error: ResourceExhausted) -> None:
        if not self._told:
            self._told = True
            self._refused(error.message)


def _num_bytes(sizes: Sequence[Size]) -> int:
    return sum(3 * width * height for width, height in sizes)


def _file(sizes: Sequence[Size], pictures: Iterable[Pixels]) -> Iterator[bytes]:
    """The bytes of a safetensors file, picture after picture."""
    head, num_bytes = np.array(sizes, "<i8").tobytes(), _num_bytes(sizes)
    ends = len(head) + num_bytes
    about = {
        SIZES: {"dtype": "I64", "shape": [len(sizes), 2], "data_offsets": [0, len(head)]},
        TENSOR: {"dtype": "U8", "shape": [num_bytes], "data_offsets": [len(head), ends]},
    }
    header = json.dumps(about).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    yield LENGTH.pack(len(header)) + header + head
    for picture in pictures:
        yield picture.tobytes()

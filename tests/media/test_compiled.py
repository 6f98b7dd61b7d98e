"""Pictures are decoded once, kept whole, shared, evicted when nobody uses them; without room they are handed on."""

import errno
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kastor.domain.media import MediumError, Resampling
from kastor.media.cache import MediaCache
from kastor.media.frame_store import FrameStore, Pixels, StoredFrames, frames_key

BICUBIC = Resampling.BICUBIC
SIZES = [(8, 6)] * 3
KEY = frames_key("ab" * 32, (0, 512, 1024), SIZES, BICUBIC)
FILE_BYTES = 3 * 3 * 6 * 8 + 250  # and a header


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def pictures(seed: int = 0) -> list[Pixels]:
    return list(np.random.default_rng(seed).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8))


class Decoder:
    """Gives the pictures, and counts how often it was asked."""

    def __init__(self, seed: int = 0) -> None:
        self.made = pictures(seed)
        self.num_asked = 0

    def __call__(self) -> Iterator[Pixels]:
        self.num_asked += 1
        yield from self.made


def store_on(cache: MediaCache, name: str = "job", told: list[str] | None = None) -> FrameStore:
    return FrameStore(cache, cache.lease(name), (told if told is not None else []).append)


@pytest.fixture(name="cache")
def a_cache(tmp_path: Path) -> MediaCache:
    return MediaCache(tmp_path / "frames")


def test_a_second_user_decodes_nothing_and_has_the_same_pixels(cache: MediaCache) -> None:
    decoder = Decoder()
    for name in ("one", "two"):
        found = store_on(cache, name).get(KEY, SIZES, decoder)
        assert isinstance(found, StoredFrames)
        assert len(found) == 3
        np.testing.assert_array_equal(np.stack(found), np.stack(decoder.made))
        np.testing.assert_array_equal(np.stack(found[1:]), np.stack(decoder.made[1:]))
        np.testing.assert_array_equal(found[-1], decoder.made[-1])
    assert decoder.num_asked == 1


def test_pictures_reach_the_disk_as_they_come(cache: MediaCache, tmp_path: Path) -> None:
    sizes = []

    def large() -> Iterator[Pixels]:
        for number in range(8):
            yield np.full((256, 256, 3), number, np.uint8)
            sizes.append(sum(path.stat().st_size for path in (tmp_path / "frames" / "incoming").iterdir()))

    store_on(cache).get(KEY, [(256, 256)] * 8, large)
    assert sizes[3] > 3 * 256 * 256 * 3
    assert sizes == sorted(sizes)


def test_pictures_of_different_sizes_are_kept_side_by_side(cache: MediaCache) -> None:
    made = [np.full((height, width, 3), width, np.uint8) for width, height in ((2, 3), (5, 1), (4, 4))]
    found = store_on(cache).get(KEY, [(2, 3), (5, 1), (4, 4)], lambda: iter(made))
    assert isinstance(found, StoredFrames)
    for one, other in zip(found, made, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(IndexError):
        found[3]


def test_a_key_tells_all_that_decides_the_pictures() -> None:
    keys = {
        KEY,
        frames_key("cd" * 32, (0, 512, 1024), SIZES, BICUBIC),
        frames_key("ab" * 32, (0, 512, 1025), SIZES, BICUBIC),
        frames_key("ab" * 32, (0, 512, 1024), [(6, 8)] * 3, BICUBIC),
        frames_key("ab" * 32, (0, 512, 1024), SIZES, Resampling.BILINEAR),
    }
    assert len(keys) == 5


def test_what_no_job_uses_is_evicted_and_what_one_uses_stays(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path / "frames", max_bytes=int(2.5 * FILE_BYTES))
    store = store_on(cache)
    names = [frames_key(letter * 64, (0,), [(8, 6)], BICUBIC) for letter in "abc"]
    for name in names[:2]:
        store.get(name, SIZES, Decoder())
    store.release(names[0])
    store.get(names[2], SIZES, Decoder())
    looker = store_on(cache, "looker")
    assert [looker.hold(name) is not None for name in names] == [False, True, True]


def test_a_cache_too_small_hands_the_pictures_on_and_says_so_once(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path / "frames", max_bytes=100)
    told: list[str] = []
    store, decoder = store_on(cache, told=told), Decoder()
    for _ in range(2):
        found = store.get(KEY, SIZES, decoder)
        assert isinstance(found, list)
        np.testing.assert_array_equal(np.stack(found), np.stack(decoder.made))
    assert decoder.num_asked == 2
    assert len(told) == 1 and "larger than the whole cache" in told[0]


class FullDisk(MediaCache):
    """Its disk takes no byte more."""

    def put(self, *given: object, **named: object) -> object:  # type: ignore[override]  # raises, whatever it is given
        with self._storage():
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_hands_the_pictures_on_and_is_not_tried_again(tmp_path: Path) -> None:
    told: list[str] = []
    store, decoder = store_on(FullDisk(tmp_path / "frames"), told=told), Decoder()
    for _ in range(2):
        np.testing.assert_array_equal(np.stack(store.get(KEY, SIZES, decoder)), np.stack(decoder.made))
    assert len(told) == 1 and "No space left" in told[0]


def test_a_medium_that_breaks_off_leaves_nothing(cache: MediaCache, tmp_path: Path) -> None:
    def broken() -> Iterator[Pixels]:
        yield pictures()[0]
        raise MediumError.of("frame_missing", "A frame is missing.")

    store = store_on(cache)
    with pytest.raises(MediumError):
        store.get(KEY, SIZES, broken)
    assert store.hold(KEY) is None
    assert not list((tmp_path / "frames" / "incoming").iterdir())


def test_pictures_whose_bytes_changed_on_the_disk_are_made_again_and_that_is_said(
    cache: MediaCache, tmp_path: Path
) -> None:
    store_on(cache).get(KEY, SIZES, Decoder())
    (path,) = (tmp_path / "frames" / "objects").rglob(KEY)
    flip_a_bit(path)
    told: list[str] = []
    later = store_on(MediaCache(tmp_path / "frames", on_damage=told.append))
    assert later.hold(KEY) is None
    decoder = Decoder()
    np.testing.assert_array_equal(np.stack(later.get(KEY, SIZES, decoder)), np.stack(decoder.made))
    assert decoder.num_asked == 1
    (said,) = told
    assert "cache of frames was damaged" in said and KEY[:16] in said and "made or fetched again" in said
    assert store_on(MediaCache(tmp_path / "frames")).hold(KEY) is not None


def compile_in(root: Path, log: Path) -> None:
    """One process's attempt, which leaves a line for each decoding."""

    def decoded() -> Iterator[Pixels]:
        with log.open("a") as file:
            file.write("decoded\n")
        yield from pictures()

    found = store_on(MediaCache(root)).get(KEY, SIZES, decoded)
    assert len(found) == 3


def test_processes_that_ask_for_the_same_decode_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    given = (tmp_path / "frames", tmp_path / "log")
    processes = [context.Process(target=compile_in, args=given) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "decoded\n"

"""Features are kept under what they were made from, whole, for everybody, and read picture by picture."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from kastor.domain.media import MediumError
from kastor.domain.vision import Grid
from kastor.media.cache import MediaCache
from kastor.models.vision.encoder import FeatureStore, VisionEncoder, feature_key

LARGE = Grid(512, 512, 16, 16)
SMALL = [Grid(256, 256, 8, 8)] * 2
KEY = feature_key("ab" * 32, (0, 512), SMALL, "tower")


def features(seed: int, num_pictures: int = 3) -> list[np.typing.NDArray[np.float16]]:
    return list(np.random.default_rng(seed).standard_normal((num_pictures, 64, 12)).astype(np.float16))


@pytest.fixture(name="cache")
def a_cache(tmp_path: Path) -> MediaCache:
    return MediaCache(tmp_path / "features", max_bytes=26_000)  # five files and a half


@pytest.fixture(name="store")
def a_store(cache: MediaCache) -> Iterator[FeatureStore]:
    lease = cache.lease("one")
    yield FeatureStore(cache, lease)
    lease.close()


def test_what_one_job_stored_another_finds_to_the_bit(cache: MediaCache, store: FeatureStore) -> None:
    assert not store.hold(KEY)
    made = features(1)
    store.put(KEY, made)
    lease = cache.lease("two")
    other = FeatureStore(cache, lease)
    assert other.hold(KEY)
    for index in range(3):
        np.testing.assert_array_equal(other.read(KEY, index), made[index])
    lease.close()


def test_a_key_tells_all_that_decides_the_features() -> None:
    keys = [
        KEY,
        feature_key("cd" * 32, (0, 512), SMALL, "tower"),
        feature_key("ab" * 32, (0, 513), SMALL, "tower"),
        feature_key("ab" * 32, (0,), SMALL[:1], "tower"),
        feature_key("ab" * 32, (0, 512), [LARGE] * 2, "tower"),
        feature_key("ab" * 32, (0, 512), SMALL, "other tower"),
    ]
    assert len(set(keys)) == len(keys)


def test_pictures_of_different_sizes_are_kept_side_by_side(store: FeatureStore) -> None:
    made = [one[:length] for one, length in zip(features(2), (5, 64, 1), strict=True)]
    store.put(KEY, made)
    for index in range(3):
        np.testing.assert_array_equal(store.read(KEY, index), made[index])


def test_what_nobody_holds_makes_room_and_what_is_held_stays(cache: MediaCache, store: FeatureStore) -> None:
    lease = cache.lease("gone")
    left = FeatureStore(cache, lease)
    left.put("a" * 64, features(1))
    lease.close()
    store.put("b" * 64, features(2))
    for number in range(4):
        store.put(f"{number}" * 64, features(number))
    fresh = cache.lease("fresh")
    looker = FeatureStore(cache, fresh)
    assert not looker.hold("a" * 64)
    assert looker.hold("b" * 64)
    fresh.close()


@pytest.mark.parametrize("place", [0, 100, -1])
def test_features_whose_bytes_changed_on_the_disk_are_not_there(
    place: int, store: FeatureStore, tmp_path: Path
) -> None:
    store.put(KEY, features(1))
    (path,) = (tmp_path / "features" / "objects").rglob(KEY)
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.chmod(0o644)
    path.write_bytes(content)
    other = MediaCache(tmp_path / "features")
    with closing(other.lease("other")) as lease:
        later = FeatureStore(other, lease)
        assert not later.hold(KEY)
        assert not path.exists()
        later.put(KEY, features(1))
        np.testing.assert_array_equal(later.read(KEY, 2), features(1)[2])


def test_a_tower_that_makes_no_numbers_of_a_picture_is_named_with_the_picture() -> None:
    def tower(pictures: np.typing.NDArray[np.uint8], grid: Grid) -> np.typing.NDArray[np.float32]:
        return np.where(pictures[:, :1, :1, 0] > 7, np.nan, np.ones((len(pictures), 1, 1), np.float32))

    still = np.zeros((256, 256, 3), np.uint8)
    assert len(VisionEncoder(tower, "hash").encode([still, still], SMALL)) == 2
    with pytest.raises(MediumError, match="no finite numbers of its picture 2") as caught:
        VisionEncoder(tower, "hash").encode([still, still + 8], SMALL)
    assert caught.value.fault.rule == "features_not_finite"

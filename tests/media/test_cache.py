import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kastor.domain.errors import FailedPrecondition, ResourceExhausted
from kastor.media.cache import MediaCache


def put(cache: MediaCache, lease: object, letter: str, size: int = 100) -> str:
    return cache.put([letter.encode() * size], lease).sha256  # type: ignore[arg-type]


def stored(root: Path) -> set[str]:
    return {path.name for path in (root / "objects").glob("*/*")}


def used_at(root: Path, sha256: str, when_s: int) -> None:
    os.utime(root / "objects" / sha256[:2] / sha256, (when_s, when_s))


def test_content_is_stored_once_under_its_hash_and_cannot_be_written(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path)
    lease = cache.lease("gate")
    first, second = cache.put([b"ab", b"c"], lease), cache.put([b"abc"], lease)
    assert first == second
    assert first.sha256 == hashlib.sha256(b"abc").hexdigest()
    assert first.path.read_bytes() == b"abc"
    assert first.path.stat().st_mode & 0o222 == 0
    assert cache.get(first.sha256, lease) == first
    assert cache.get("0" * 64, lease) is None
    assert not list((tmp_path / "incoming").iterdir())


def test_what_nobody_holds_is_evicted_least_recently_used_first(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path, max_bytes=450)
    with_lease = cache.lease("job")
    names = [put(cache, with_lease, letter) for letter in "abcd"]
    for when, name in zip((1, 3, 2, 4), names, strict=True):
        used_at(tmp_path, name, 1000 + when)
    for name in names[1:]:
        with_lease.release(name)
    new = put(cache, with_lease, "e")
    assert stored(tmp_path) == {names[0], names[1], names[3], new}  # c was the oldest that nobody held


def test_a_medium_pinned_twice_is_held_until_released_twice(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path, max_bytes=150)
    lease = cache.lease("job")
    name = put(cache, lease, "a")
    assert cache.get(name, lease)
    lease.release(name)
    with pytest.raises(ResourceExhausted, match="full of media in use"):
        put(cache, lease, "b")
    lease.release(name)
    put(cache, lease, "b")
    assert name not in stored(tmp_path)


def test_a_medium_larger_than_the_cache_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path, max_bytes=1000)
    with pytest.raises(ResourceExhausted, match="larger than the whole"):
        put(cache, cache.lease("job"), "a", 1001)
    assert not stored(tmp_path)
    assert not list((tmp_path / "incoming").iterdir())


def test_a_source_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"abc"
        raise KeyError("broke off")

    cache = MediaCache(tmp_path)
    with pytest.raises(KeyError):
        cache.put(broken(), cache.lease("job"))
    assert not stored(tmp_path)
    assert not list((tmp_path / "incoming").iterdir())


def test_a_closed_lease_holds_nothing_and_takes_nothing(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path, max_bytes=150)
    lease = cache.lease("job")
    name = put(cache, lease, "a")
    lease.close()
    with pytest.raises(FailedPrecondition):
        lease.pin(name)
    put(cache, cache.lease("other"), "b")
    assert name not in stored(tmp_path)


def test_the_pins_of_a_killed_process_end_with_it(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from kastor.media.cache import MediaCache\n"
        "cache = MediaCache(Path(sys.argv[1]), max_bytes=150); lease = cache.lease('job')\n"
        "print(cache.put([b'a' * 100], lease).sha256, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    with other.stdout:
        name = other.stdout.readline().strip()
        cache = MediaCache(tmp_path, max_bytes=150)
        lease = cache.lease("job")
        with pytest.raises(ResourceExhausted):
            put(cache, lease, "b")
        other.kill()
        other.wait()
    put(cache, lease, "b")
    assert name not in stored(tmp_path)
    assert len(list((tmp_path / "leases").iterdir())) == 1


def test_a_note_is_kept_and_a_broken_one_is_none(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path)
    assert cache.known("https://a/b") is None
    cache.note("https://a/b", "ab" * 32, etag='"x"', modified=None)
    assert cache.known("https://a/b") == {"source": "https://a/b", "sha256": "ab" * 32, "etag": '"x"', "modified": None}
    (path,) = (tmp_path / "known").glob("*/*")
    path.write_bytes(b"{")
    assert cache.known("https://a/b") is None


def test_a_note_that_says_something_else_than_was_written_is_none(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path)
    cache.note("https://a/b", "ab" * 32, seen='{"pts": [1000]}')
    (path,) = (tmp_path / "known").glob("*/*")
    path.write_bytes(path.read_bytes().replace(b"1000", b"1001"))
    assert cache.known("https://a/b") is None


def test_a_medium_whose_bytes_changed_on_the_disk_is_removed_and_not_held(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path)
    with closing(cache.lease("one")) as lease:
        path = cache.put([b"abc" * 1000], lease).path
        assert cache.get(path.name, lease) is not None
        path.chmod(0o644)
        path.write_bytes(b"abc" * 999 + b"abd")
        later = MediaCache(tmp_path)
        with closing(later.lease("two")) as other:
            assert later.get(path.name, other) is None
            assert not later.has(path.name)
            assert later.put([b"abc" * 1000], other).path.read_bytes() == b"abc" * 1000
            assert later.get(path.name, other) is not None


def test_what_is_evicted_leaves_no_sum_behind(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path, max_bytes=250)
    with closing(cache.lease("one")) as lease:
        for letter in "abcd":
            cache.put([letter.encode() * 100], lease, name=letter * 64)
            lease.release(letter * 64)
    assert {path.name for path in (tmp_path / "sums").glob("*/*")} == stored(tmp_path)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(FailedPrecondition, match="Cannot use the media cache"):
        MediaCache(tmp_path / "cache").lease("job")


FILL = """
import sys
from pathlib import Path
from kastor.media.cache import MediaCache
cache = MediaCache(Path(sys.argv[1]), max_bytes=10_000)
lease = cache.lease("filler")
for letter in sys.argv[2] * 5:
    content = letter.encode() * 1000
    stored = cache.put([content], lease)
    kept = cache.get(stored.sha256, lease)
    assert kept is not None and kept.path.read_bytes() == content
    lease.release(stored.sha256)
    lease.release(stored.sha256)
"""


def test_many_processes_share_it_without_losing_what_one_of_them_holds(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILL, str(tmp_path)]
    fillers = [subprocess.Popen([*command, letters]) for letters in ("abcdefgh", "efghijkl", "ijklabcd")]
    assert [filler.wait(60) for filler in fillers] == [0, 0, 0]
    assert 0 < sum(path.stat().st_size for path in (tmp_path / "objects").glob("*/*")) <= 10_000

"""Fetched media in one folder, each under the SHA-256 of its content; safe for several processes.

    objects/ab/ab12…     the content, read-only; its time of change is that of its last use
    sums/ab/ab12…        the hash of an object whose name is not that of its content
    known/cd/cd34….json  what a source was when it was fetched: its validators -> the content's hash
    leases/….lease       who uses what: a line "+sha" or "-sha" a change; locked as long as its owner lives
    incoming/            what is being fetched

What no living lease holds is evicted, least recently used first, once the folder is over its limit. A disk may give
back other bytes than it was given: an object is hashed when a process first asks for it, and a damaged one is removed,
said, and not there, so that whoever asked makes it again.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import structlog
from filelock import FileLock

from kastor.domain.errors import FailedPrecondition, ResourceExhausted

DEFAULT_MAX_BYTES = 50 << 30
NUM_STRIPES = 256
STALE_S = 24 * 3600.0
KNOWN_S = 90 * 24 * 3600.0
UNCOUNTED_SHARE = 0.02  # of the limit may be added before the folder is counted anew
CHUNK_BYTES = 1 << 20
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class CachedFile:
    """One medium on this machine's disk."""

    path: Path
    sha256: str
    num_bytes: int


class Lease:
    """What one user of the cache holds on to; ends with `close` or with its process, however that ends."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{name}-{os.getpid()}-{secrets.token_hex(4)}.lease"
        # under a name that no eviction looks at until it is locked
        descriptor = os.open(self._path.with_suffix(".new"), os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_RDWR, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._path.with_suffix(".new").rename(self._path)
        self._descriptor: int | None = descriptor

    def pin(self, sha256: str) -> None:
        """Keep the medium until `release` has been called as often."""
        self._note("+", sha256)

    def release(self, sha256: str) -> None:
        """Let go of one `pin`."""
        self._note("-", sha256)

    def close(self) -> None:
        """Let go of everything."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _note(self, sign: str, sha256: str) -> None:
        if self._descriptor is None:
            raise FailedPrecondition("The lease on the media cache is closed.")
        os.write(self._descriptor, f"{sign}{sha256}\n".encode())


class MediaCache:
    """The folder. Any number of processes and threads may share it."""

    def __init__(
        self,
        root: Path,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        on_damage: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_damage` is told what was damaged and removed, beside the log."""
        self._root = root
        self._max_bytes = max_bytes
        self._on_damage = on_damage
        self._verified: set[tuple[str, int]] = set()  # objects by name and inode
        self._uncounted: int | None = None  # bytes added since the folder was counted; None: never counted

    def lease(self, name: str) -> Lease:
        """A new lease; `name` is for people who look into the folder."""
        with self._storage():
            return Lease(self._root / "leases", "".join(c if c.isalnum() else "-" for c in name))

    def get(self, sha256: str, lease: Lease) -> CachedFile | None:
        """The medium, pinned by `lease`; `None` if it is not here, or was damaged and has been removed."""
        path = self._object(sha256)
        with self._storage(), ExitStack() as stack:
            with self._settled():
                try:
                    file = stack.enter_context(path.open("rb"))
                    os.utime(path)
                except FileNotFoundError:
                    return None
                expected = self._sum(sha256)
                lease.pin(sha256)
            status = os.fstat(file.fileno())
            if (sha256, status.st_ino) not in self._verified:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    lease.release(sha256)
                    self._remove_damaged(sha256, status)
                    return None
                self._verified.add((sha256, status.st_ino))
        return CachedFile(path, sha256, status.st_size)

    def _sum(self, name: str) -> str:
        """The hash that the object's content should have; that of a medium is its name."""
        try:
            return self._sum_file(name).read_text()
        except FileNotFoundError:
            return name

    def _remove_damaged(self, name: str, seen: os.stat_result) -> None:
        path = self._object(name)
        with self._settled():
            if path.exists() and path.stat().st_ino == seen.st_ino:  # else somebody has made it again
                path.unlink()
                self._sum_file(name).unlink(missing_ok=True)
        structlog.get_logger().warning("cache_object_damaged", path=str(path), num_bytes=seen.st_size)
        self._on_damage(
            f"a file in the cache of {self._root.name} was damaged on the disk ({name[:16]}…, {seen.st_size:,} bytes): "
            "it was removed, and is made or fetched again"
        )

    def check_size(self, num_bytes: int) -> None:
        """Nothing, if so many bytes could be kept at all.

        Raises:
            ResourceExhausted: they are more than the whole cache.

        """
        if num_bytes > self._max_bytes:
            raise ResourceExhausted(
                f"A medium of {num_bytes:,} bytes is larger than the whole cache {self._root} ({self._max_bytes:,} "
                "bytes); give it more room."
            )

    def has(self, sha256: str) -> bool:
        """Whether the medium is here now; it may go."""
        return self._object(sha256).exists()

    def room(self) -> int:
        """Bytes that could be put here if all went that nobody holds."""
        with self._storage(), self._settled():
            pinned = self._pinned()
            held = sum(status.st_size for path, status in _files(self._root / "objects") if path.name in pinned)
        return max(0, self._max_bytes - held)

    def put(self, chunks: Iterable[bytes], lease: Lease, *, name: str | None = None) -> CachedFile:
        """Store a medium and pin it by `lease`; the same content is stored once.

        `name` takes the place of its hash where the content is made from something else, and that decides what it is.

        Raises:
            ResourceExhausted: it does not fit the cache or the disk.
            FailedPrecondition: the folder cannot be written to.

        """
        with self._storage(), self._incoming() as (file, temporary):
            digest, num_bytes = hashlib.sha256(), 0
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                num_bytes += len(chunk)
                self.check_size(num_bytes)
            file.flush()
            os.fsync(file.fileno())
            sha256 = name or digest.hexdigest()
            path = self._object(sha256)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.fchmod(file.fileno(), 0o444)
            with self._settled():
                self._make_room(num_bytes)
                if name is not None:
                    self._write_whole(self._sum_file(name), digest.hexdigest().encode())
                temporary.replace(path)
                lease.pin(sha256)
        return CachedFile(path, sha256, num_bytes)

    def known(self, source: str) -> dict[str, Any] | None:
        """What was noted of a source, with its `sha256`."""
        try:
            held = orjson.loads(self._known(source).read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None
        noted = held.get("noted") if isinstance(held, dict) else None
        if not isinstance(noted, dict) or noted.get("source") != source:
            return None
        return noted if held.get("sum") == _sum_of(noted) else None

    def note(self, source: str, sha256: str, **validators: str | int | None) -> None:
        """Remember what a source was, so that it need not be fetched or read again while it stays so."""
        noted = {"source": source, "sha256": sha256, **validators}
        with self._storage():
            self._write_whole(self._known(source), orjson.dumps({"sum": _sum_of(noted), "noted": noted}))

    @contextmanager
    def fetching(self, source: str) -> Iterator[None]:
        """One at a time for each source, over all processes: the second finds what the first has fetched."""
        stripe = int(hashlib.sha256(source.encode()).hexdigest()[:8], 16) % NUM_STRIPES
        folder = self._root / "locks"
        with self._storage():
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{stripe:02x}", thread_local=False):
            yield

    def _object(self, sha256: str) -> Path:
        return self._root / "objects" / sha256[:2] / sha256

    def _sum_file(self, name: str) -> Path:
        return self._root / "sums" / name[:2] / name

    def _write_whole(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        temporary.write_bytes(content)
        temporary.replace(path)

    def _known(self, source: str) -> Path:
        name = hashlib.sha256(source.encode()).hexdigest()
        return self._root / "known" / name[:2] / f"{name}.json"

    @contextmanager
    def _incoming(self) -> Iterator[tuple[BinaryIO, Path]]:
        folder = self._root / "incoming"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / secrets.token_hex(12)
        try:
            with temporary.open("xb") as file:
                yield file, temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, num_bytes: int) -> None:
        """Evict until `num_bytes` more fit; the folder is counted only now and then, which may overshoot a little."""
        if self._uncounted is not None and self._uncounted + num_bytes <= UNCOUNTED_SHARE * self._max_bytes:
            self._uncounted += num_bytes
            return
        self._evict(num_bytes)
        self._uncounted = 0

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Nothing is evicted meanwhile by anybody: no pin comes too late."""
        self._root.mkdir(parents=True, exist_ok=True)
        with FileLock(self._root / "eviction.lock", thread_local=False):
            yield

    def _evict(self, num_bytes: int) -> None:
        stored = sorted(_files(self._root / "objects"), key=lambda entry: entry[1].st_mtime_ns)
        slack = int(UNCOUNTED_SHARE * self._max_bytes)
        excess = sum(entry[1].st_size for entry in stored) + num_bytes - (self._max_bytes - slack)
        if excess > 0:
            self._sweep()
            pinned = self._pinned()
            for path, status in stored:
                if excess > 0 and path.name not in pinned:
                    path.unlink(missing_ok=True)
                    self._sum_file(path.name).unlink(missing_ok=True)
                    excess -= status.st_size
        if excess > slack:
            raise ResourceExhausted(
                f"The media cache {self._root} is full of media in use ({self._max_bytes} bytes allowed); give it more "
                "room, or check or train fewer datasets at a time."
            )

    def _sweep(self) -> None:
        """Remove what interrupted fetches left, and notes of long ago."""
        now = time.time()
        for folder, age_s in (("incoming", STALE_S), ("known", KNOWN_S)):
            for path, status in _files(self._root / folder):
                if now - status.st_mtime > age_s:
                    path.unlink(missing_ok=True)

    def _pinned(self) -> set[str]:
        """What living leases hold; the dead ones are removed."""
        held: Counter[str] = Counter()
        for path, _ in _files(self._root / "leases"):
            if path.suffix == ".lease":
                held.update(_held(path))
        return {sha256 for sha256, count in held.items() if count > 0}

    @contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in NO_SPACE:
                raise ResourceExhausted(f"No space left for media in {self._root}; free some and try again.") from error
            raise FailedPrecondition(f"Cannot use the media cache {self._root}: {error.strerror or error}.") from error


def _sum_of(noted: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(noted, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _held(path: Path) -> Counter[str]:
    held: Counter[str] = Counter()
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                for line in file.read().decode().splitlines():
                    held[line[1:]] += 1 if line[0] == "+" else -1
            else:
                path.unlink(missing_ok=True)  # its owner is gone
    except FileNotFoundError:
        pass  # closed meanwhile
    return held


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All files below a folder that do not vanish while we look."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            else:
                yield Path(entry.path), entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue

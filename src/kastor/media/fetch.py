"""Media by URI onto this machine's disk: each source read once, whatever names it how often.

Local files are used where they lie, if they lie under an allowed root; what comes from elsewhere goes into the cache.
A source that cannot be had is a `MediumError`; an error of ours (disk full, cache unusable) is not.
"""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec  # type: ignore[import-untyped]  # has none
import httpx

from kastor.domain.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from kastor.domain.excerpt import excerpt
from kastor.domain.media import MediumError
from kastor.media.cache import CHUNK_BYTES, CachedFile, Lease, MediaCache
from kastor.media.media_address import check_names_a_file
from kastor.security.url_guard import MAX_REDIRECTS, Target, UrlGuard

BUCKET_SCHEMES = ("gs", "s3")
FRESH_S = 1.0  # a file changed so lately may change again without its time changing
RETRY_AFTER_S = (0.5, 2.0)
REDIRECTS = frozenset({301, 302, 303, 307, 308})
USER_AGENT = "kastor (media fetch)"


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How much one medium may take."""

    max_bytes: int = 2 << 30
    connect_s: float = 10.0
    read_s: float = 30.0  # between two pieces
    total_s: float = 600.0


@dataclass(frozen=True, slots=True)
class AllowedSources:
    """Where media may come from: folders, and prefixes of buckets such as `gs://bucket/folder` or `gs://` for all.

    `base` is where relative paths start, usually the dataset's folder; without it they are refused.
    """

    folders: tuple[Path, ...] = ()
    buckets: tuple[str, ...] = ()
    base: Path | None = None


class Fetcher:
    """Fetches for one user of the cache; what it gave out stays on disk until it is released or the lease ends.

    `uploads` turns a name such as `files/abc` into the path of its content.
    """

    def __init__(
        self,
        cache: MediaCache,
        lease: Lease,
        places: AllowedSources,
        *,
        guard: UrlGuard | None = None,
        uploads: Callable[[str], Path] | None = None,
        limits: FetchLimits | None = None,
        open_filesystem: Callable[[str], Any] = fsspec.filesystem,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cache = cache
        self._lease = lease
        self._places = places
        self._guard = guard or UrlGuard()
        self._uploads = uploads
        self._limits = limits or FetchLimits()
        self._open_filesystem = open_filesystem
        self._sleep = sleep
        self._roots = tuple(Path(os.path.realpath(folder)) for folder in places.folders)

    def fetch(self, uri: str) -> CachedFile:
        """The medium that `uri` names: a path, `file://`, `gs://`, `s3://`, `http(s)://` or `files/…`.

        Raises:
            MediumError: it cannot be had, or may not be.
            ResourceExhausted: the disk or the cache is full.

        """
        scheme = uri.split(":", 1)[0].lower() if "://" in uri else ""
        if "\0" in uri:
            raise MediumError.of("media_uri_invalid", f"{excerpt(uri)} is no name of a medium.")
        check_names_a_file(uri)
        if scheme in ("http", "https"):
            return self._web(uri)
        if scheme in BUCKET_SCHEMES:
            return self._bucket(scheme, uri)
        if scheme == "file":
            return self._local(_file_path(uri), uri)
        if scheme:
            raise MediumError.of(
                "media_uri_unsupported",
                f"{excerpt(uri)} cannot be fetched: {scheme} is not supported.",
                "Use a local path, gs://, s3://, http(s):// or an uploaded file.",
            )
        if uri.startswith("files/") and self._uploads is not None:
            return self._upload(uri)
        return self._local(Path(uri), uri)

    def fetch_bytes(self, content: bytes) -> CachedFile:
        """The medium whose bytes stood in the example itself.

        Raises:
            MediumError: it is too large.
            ResourceExhausted: the disk or the cache is full.

        """
        if len(content) > self._limits.max_bytes:
            raise _too_big(self._limits.max_bytes)
        sha256 = hashlib.sha256(content).hexdigest()
        return self._cache.get(sha256, self._lease) or self._cache.put([content], self._lease)

    def release(self, fetched: CachedFile) -> None:
        """Let the medium be evicted, once for each time it was fetched."""
        self._lease.release(fetched.sha256)

    def _local(self, path: Path, uri: str) -> CachedFile:
        if not path.is_absolute():
            if self._places.base is None:
                raise MediumError.of(
                    "media_uri_relative", f"{excerpt(uri)} is relative to nothing.", "Give an absolute path."
                )
            path = self._places.base / path
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):
            # whether it exists outside the roots is nobody's business
            real = Path(os.path.normpath(path))
            self._check_root(real, uri)
            raise MediumError.of(
                "media_not_found", f"{excerpt(uri)} does not exist.", "See whether the path is right."
            ) from None
        self._check_root(real, uri)
        return self._in_place(real, uri)

    def _check_root(self, real: Path, uri: str) -> None:
        if not any(real.is_relative_to(root) for root in self._roots):
            raise MediumError.of(
                "media_outside_roots",
                f"{excerpt(uri)} does not lie in a folder that media may come from.",
                "Upload it, or let the operator add its folder to media_folders.",
            )

    def _upload(self, name: str) -> CachedFile:
        try:
            path = self._uploads(name) if self._uploads is not None else Path()
        except (NotFound, PermissionDenied, InvalidArgument) as error:
            raise MediumError.of("media_not_found", f"{name}: {error.message}", "Upload it again.") from error
        return self._in_place(path, name)

    def _in_place(self, path: Path, uri: str) -> CachedFile:
        """The file where it lies; its hash is remembered for as long as its size and time stay the same."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise MediumError.of("media_not_readable", f"{excerpt(uri)} cannot be read: {error.strerror}.") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise MediumError.of("media_not_a_file", f"{excerpt(uri)} is not a file.")
        with os.fdopen(descriptor, "rb") as file:
            if status.st_size > self._limits.max_bytes:
                raise _too_big(self._limits.max_bytes)
            version = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
            source = f"path:{path}"
            noted = self._cache.known(source)
            if noted is not None and noted.get("version") == version:
                return self._pinned(path, str(noted["sha256"]), status.st_size)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time() - status.st_mtime > FRESH_S:
            self._cache.note(source, sha256, version=version)
        return self._pinned(path, sha256, status.st_size)

    def _pinned(self, path: Path, sha256: str, num_bytes: int) -> CachedFile:
        self._lease.pin(sha256)  # so that release() may be called for whatever was fetched
        return CachedFile(path, sha256, num_bytes)

    def _bucket(self, scheme: str, uri: str) -> CachedFile:
        bucket, _, key = uri.partition("://")[2].partition("/")
        if not bucket or not key or "::" in uri or any(part in (".", "..", "") for part in key.split("/")):
            raise MediumError.of("media_uri_invalid", f"{excerpt(uri)} is not {scheme}://BUCKET/OBJECT.")
        if not any(_below(uri, prefix) for prefix in self._places.buckets):
            raise MediumError.of(
                "media_outside_roots",
                f"{excerpt(uri)} does not lie where media may come from.",
                "Let the operator allow its bucket.",
            )
        try:
            filesystem = self._open_filesystem(scheme)
        except (ImportError, ValueError) as error:
            raise MediumError.of(
                "media_uri_unsupported",
                f"This installation cannot read {scheme}://.",
                f"The operator adds it, in Kastor's checkout: pip install '.[{'gcs' if scheme == 'gs' else 's3'}]'",
            ) from error
        with self._cache.fetching(uri), _bucket_faults(uri):
            return self._object(filesystem, uri, f"{bucket}/{key}")

    def _object(self, filesystem: Any, uri: str, key: str) -> CachedFile:  # noqa: ANN401  # fsspec has no types
        about = filesystem.info(key)
        if about.get("size") is not None and int(about["size"]) > self._limits.max_bytes:
            raise _too_big(self._limits.max_bytes)
        names = ("generation", "ETag", "etag", "md5Hash", "size", "mtime", "LastModified", "updated", "created")
        version = ",".join(f"{name}={about[name]}" for name in names if about.get(name) is not None)
        noted = self._cache.known(uri)
        if noted is not None and noted.get("version") == version and version:
            kept = self._cache.get(str(noted["sha256"]), self._lease)
            if kept is not None:
                return kept

        def chunks() -> Iterator[bytes]:
            with _bucket_faults(uri), filesystem.open(key, "rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk

        fetched = self._cache.put(self._bounded(chunks()), self._lease)
        self._cache.note(uri, fetched.sha256, version=version)
        return fetched

    def _web(self, url: str) -> CachedFile:
        with self._cache.fetching(url):
            for pause_s in (*RETRY_AFTER_S, None):
                try:
                    return self._download(url)
                except Unavailable as error:
                    if pause_s is None:
                        raise MediumError.of(
                            "media_unavailable", f"{excerpt(url)}: {error.message}", "Try again later."
                        ) from error
                    self._sleep(pause_s)
        raise AssertionError("unreachable")

    def _download(self, url: str) -> CachedFile:
        """One attempt, redirects followed, each judged.

        Raises:
            Unavailable: it may work another time.

        """
        noted = self._cache.known(url)
        kept = None if noted is None else self._cache.get(str(noted["sha256"]), self._lease)
        try:
            fetched = self._asked(url, kept, _conditions(noted) if noted is not None and kept is not None else {})
        except BaseException:
            if kept is not None:
                self.release(kept)
            raise
        if kept is not None and fetched is not kept:
            self.release(kept)
        return fetched

    def _asked(self, url: str, kept: CachedFile | None, headers: dict[str, str]) -> CachedFile:
        at = url
        try:
            for _ in range(MAX_REDIRECTS + 1):
                with self._answer(self._judged(at), headers) as answer:
                    if answer.status_code not in REDIRECTS:
                        unchanged = answer.status_code == httpx.codes.NOT_MODIFIED
                        return kept if kept is not None and unchanged else self._body(url, answer)
                    at = self._guard.redirect(at, answer.headers.get("location", ""))
        except MediumError:
            raise
        except (httpx.TransportError, httpx.StreamError) as error:
            raise Unavailable(f"the transfer failed: {error or type(error).__name__}.") from error
        except (InvalidArgument, httpx.InvalidURL) as error:
            raise MediumError.of("media_uri_invalid", f"{url}: {error}") from error
        raise MediumError.of("media_too_many_redirects", f"{url} redirects more than {MAX_REDIRECTS} times.")

    def _judged(self, url: str) -> Target:
        try:
            return self._guard.target(url)
        except PermissionDenied as error:
            raise MediumError.of(
                "media_address_refused", f"{excerpt(url)}: {error.message}", "Give a public URL, or upload the file."
            ) from error

    @contextmanager
    def _answer(self, target: Target, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """The answer of an address that was judged; no proxy, no credentials, no second resolution."""
        timeout = httpx.Timeout(self._limits.read_s, connect=self._limits.connect_s)
        # the certificate is judged by the name, though the connection goes to the address
        extensions = {"sni_hostname": target.host} if target.scheme == "https" else {}
        given = {"Host": target.host_header, "Accept-Encoding": "identity", "User-Agent": USER_AGENT, **headers}
        with httpx.Client(trust_env=False, follow_redirects=False, timeout=timeout) as client:
            for left, address in enumerate(target.addresses, 1 - len(target.addresses)):
                request = client.build_request("GET", target.url(address), headers=given, extensions=extensions)
                try:
                    answer = client.send(request, stream=True)
                    break
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if left == 0:
                        raise
            try:
                yield answer
            finally:
                answer.close()

    def _body(self, url: str, answer: httpx.Response) -> CachedFile:
        status = answer.status_code
        if status in (408, 425, 429) or status >= 500:
            raise Unavailable(f"the server answered {status}.")
        if status in (404, 410):
            raise MediumError.of("media_not_found", f"{url} does not exist (the server answered {status}).")
        if status != httpx.codes.OK:
            raise MediumError.of("media_not_readable", f"{url} cannot be read: the server answered {status}.")
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            raise MediumError.of("media_encoded", f"{url} comes compressed, though that was not asked for.")
        length = answer.headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > self._limits.max_bytes):
            raise _too_big(self._limits.max_bytes)
        fetched = self._cache.put(self._bounded(answer.iter_raw(CHUNK_BYTES)), self._lease)
        self._cache.note(
            url, fetched.sha256, etag=answer.headers.get("etag"), modified=answer.headers.get("last-modified")
        )
        return fetched

    def _bounded(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks, up to the limits of size and time."""
        deadline = time.monotonic() + self._limits.total_s
        num_bytes = 0
        for chunk in chunks:
            num_bytes += len(chunk)
            if num_bytes > self._limits.max_bytes:
                raise _too_big(self._limits.max_bytes)
            if time.monotonic() > deadline:
                raise MediumError.of(
                    "media_too_slow", f"The transfer took longer than {self._limits.total_s:g} s.", "Upload the file."
                )
            yield chunk


def _conditions(noted: dict[str, Any]) -> dict[str, str]:
    headers = {"If-None-Match": noted.get("etag"), "If-Modified-Since": noted.get("modified")}
    return {name: str(value) for name, value in headers.items() if value}


def _too_big(max_bytes: int) -> MediumError:
    return MediumError.of(
        "media_too_many_bytes",
        f"The file has more than {max_bytes} bytes, which is the most that is fetched.",
        "Make it smaller.",
    )


def _file_path(uri: str) -> Path:
    split = urlsplit(uri)
    if split.netloc not in ("", "localhost") or split.query or split.fragment:
        raise MediumError.of("media_uri_invalid", f"{excerpt(uri)} names another host.", "Use file:///absolute/path.")
    return Path(unquote(split.path))


def _below(uri: str, prefix: str) -> bool:
    """Whether `prefix` ends where a part of the URI ends.

    >>> _below("gs://b/a/x", "gs://b"), _below("gs://bad/x", "gs://b"), _below("gs://b/x", "gs://")
    (True, False, True)
    """
    return uri.startswith(prefix if prefix.endswith("/") else prefix + "/")


@contextmanager
def _bucket_faults(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise MediumError.of("media_not_found", f"{excerpt(uri)} does not exist.") from error
    except PermissionError as error:
        raise MediumError.of(
            "media_not_readable", f"{excerpt(uri)} may not be read with the server's credentials."
        ) from error
    except (OSError, ValueError) as error:
        raise MediumError.of(
            "media_unavailable", f"{excerpt(uri)} cannot be read: {error}.", "Try again later."
        ) from error

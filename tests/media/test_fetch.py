import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from kastor.domain.errors import NotFound
from kastor.domain.media import MediumError
from kastor.media.cache import MediaCache
from kastor.media.fetch import AllowedSources, Fetcher, FetchLimits
from kastor.security.url_guard import UrlGuard

CONTENT = bytes(range(256)) * 20


class Site:
    """A web server on loopback; answers are looked up by path, requests are noted."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.answers: dict[str, list[tuple[int, dict[str, str], bytes]]] = {}
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.requests.append((self.path, dict(self.headers)))
                queue = site.answers.get(self.path, [(404, {}, b"")])
                status, headers, body = queue.pop(0) if len(queue) > 1 else queue[0]
                if headers.get("ETag") and self.headers.get("If-None-Match") == headers["ETag"]:
                    status, body = 304, b""
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.port = self.server.server_address[1]

    def serve(self, path: str, *answers: tuple[int, dict[str, str], bytes]) -> str:
        self.answers[path] = list(answers)
        return f"http://media.example:{self.port}{path}"


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


class World:
    """A fetcher with everything handed in."""

    def __init__(self, root: Path) -> None:
        self.media = root / "media"
        self.media.mkdir()
        self.cache = MediaCache(root / "cache")
        self.lease = self.cache.lease("test")
        self.resolved: list[str] = []
        self.slept: list[float] = []
        self.uploads = {"files/abc": self.media / "upload"}

    def fetcher(self, *, allowed: tuple[str, ...] = ("media.example",), **changes: Any) -> Fetcher:
        given = {
            "guard": UrlGuard(allowed, resolve=self._resolve),
            "uploads": self._upload,
            "sleep": self.slept.append,
        } | changes
        places = given.pop("places", AllowedSources((self.media,), ("gs://bucket/data",), self.media))
        return Fetcher(self.cache, self.lease, places, **given)

    def _resolve(self, host: str, port: int) -> list[str]:
        self.resolved.append(host)
        return {"media.example": ["127.0.0.1"], "inner.example": ["127.0.0.1"]}.get(host, [])

    def _upload(self, name: str) -> Path:
        if name not in self.uploads:
            raise NotFound(f"{name} does not exist.")
        return self.uploads[name]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refused(fetcher: Fetcher, uri: str) -> str:
    with pytest.raises(MediumError) as caught:
        fetcher.fetch(uri)
    return caught.value.fault.rule


def old(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    os.utime(path, (1_000_000, 1_000_000))
    return path


def test_local_files_are_used_where_they_lie(world: World) -> None:
    path = old(world.media / "a b.mp4", CONTENT)
    fetcher = world.fetcher()
    for uri in (str(path), "a b.mp4", f"file://{world.media}/a%20b.mp4", f"{world.media}/x/../a b.mp4"):
        if "/x/" in uri:
            (world.media / "x").mkdir()
        fetched = fetcher.fetch(uri)
        assert (fetched.path, fetched.num_bytes) == (path, len(CONTENT))
        assert fetched.sha256 == hashlib.sha256(CONTENT).hexdigest()
        fetcher.release(fetched)


def test_a_local_file_is_hashed_again_only_when_it_changed(world: World) -> None:
    path = old(world.media / "a.mp4", b"one")
    first = world.fetcher().fetch("a.mp4")
    noted = world.cache.known(f"path:{path}")
    assert noted is not None
    world.cache.note(f"path:{path}", "remembered", version=noted["version"])
    assert world.fetcher().fetch("a.mp4").sha256 == "remembered"
    path.write_bytes(b"two!")
    assert world.fetcher().fetch("a.mp4").sha256 == hashlib.sha256(b"two!").hexdigest() != first.sha256


def test_nothing_outside_the_roots_is_reached(world: World, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    (world.media / "link").symlink_to(secret)
    (world.media / "loop").symlink_to(world.media / "loop")
    fetcher = world.fetcher()
    for uri in (str(secret), "../secret", "link", f"file://{secret}", "/etc/passwd", f"{world.media}/../secret"):
        assert refused(fetcher, uri) == "media_outside_roots"
    assert refused(fetcher, str(tmp_path / "absent")) == "media_outside_roots"  # as if it were there
    assert refused(fetcher, f"{tmp_path}/media-of-others/x") == "media_outside_roots"
    assert refused(fetcher, "loop") == "media_not_found"


def test_what_is_no_file_is_a_named_fault(world: World) -> None:
    os.mkfifo(world.media / "pipe")
    fetcher = world.fetcher()
    assert refused(fetcher, "pipe") == "media_not_a_file"
    assert refused(fetcher, str(world.media)) == "media_not_a_file"
    assert refused(fetcher, "absent.mp4") == "media_not_found"
    assert refused(fetcher, "a\0b") == "media_uri_invalid"
    assert refused(fetcher, "file://elsewhere/a") == "media_uri_invalid"
    assert refused(fetcher, "ftp://media.example/a") == "media_uri_unsupported"
    assert refused(world.fetcher(places=AllowedSources((world.media,))), "a.mp4") == "media_uri_relative"
    old(world.media / "large", CONTENT)
    assert refused(world.fetcher(limits=FetchLimits(max_bytes=100)), "large") == "media_too_many_bytes"


def test_uploads_are_asked_for_by_name(world: World) -> None:
    old(world.uploads["files/abc"], CONTENT)
    assert world.fetcher().fetch("files/abc").path == world.uploads["files/abc"]
    assert refused(world.fetcher(), "files/other") == "media_not_found"


def test_inline_bytes_are_stored_once(world: World) -> None:
    fetcher = world.fetcher()
    fetched = fetcher.fetch_bytes(CONTENT)
    assert fetched == fetcher.fetch_bytes(CONTENT)
    assert fetched.path.read_bytes() == CONTENT
    with pytest.raises(MediumError, match="more than 10 bytes"):
        world.fetcher(limits=FetchLimits(max_bytes=10)).fetch_bytes(CONTENT)


def test_a_url_is_fetched_once_and_then_only_asked_after(world: World, site: Site) -> None:
    url = site.serve("/a.mp4", (200, {"ETag": '"v1"'}, CONTENT))
    first, second = world.fetcher().fetch(url), world.fetcher().fetch(url)
    assert first == second
    assert first.path.read_bytes() == CONTENT
    assert [headers.get("If-None-Match") for _, headers in site.requests] == [None, '"v1"']
    assert site.requests[0][1]["Host"] == f"media.example:{site.port}"
    site.serve("/a.mp4", (200, {"ETag": '"v2"'}, b"new"))
    assert world.fetcher().fetch(url).path.read_bytes() == b"new"


def test_a_name_is_resolved_once_a_request_so_that_it_cannot_change_its_meaning(world: World, site: Site) -> None:
    world.fetcher().fetch(site.serve("/a", (200, {}, CONTENT)))
    assert world.resolved == ["media.example"]


def test_redirects_are_followed_and_each_is_judged(world: World, site: Site) -> None:
    site.serve("/end", (200, {}, CONTENT))
    fetcher = world.fetcher()
    assert fetcher.fetch(site.serve("/a", (302, {"Location": "/end"}, b""))).num_bytes == len(CONTENT)
    for location in (
        f"http://127.0.0.1:{site.port}/end",
        f"http://inner.example:{site.port}/end",
        f"http://[::ffff:127.0.0.1]:{site.port}/end",
        "http://169.254.169.254/latest/meta-data",
    ):
        asked = len(site.requests)
        assert refused(fetcher, site.serve("/b", (301, {"Location": location}, b""))) == "media_address_refused"
        assert len(site.requests) == asked + 1
    for location in ("file:///etc/passwd", f"http://2130706433:{site.port}/end", ""):
        assert refused(fetcher, site.serve("/b", (301, {"Location": location}, b""))) == "media_uri_invalid"
    assert refused(fetcher, site.serve("/c", (307, {"Location": "/c"}, b""))) == "media_too_many_redirects"


def test_a_private_address_is_not_even_connected_to(world: World, site: Site) -> None:
    url = site.serve("/a", (200, {}, CONTENT))
    assert refused(world.fetcher(allowed=()), url) == "media_address_refused"
    assert refused(world.fetcher(allowed=()), url.replace("media.example", "127.0.0.1")) == "media_address_refused"
    assert not site.requests


def test_too_much_is_refused_whether_announced_or_not(world: World, site: Site, tmp_path: Path) -> None:
    fetcher = world.fetcher(limits=FetchLimits(max_bytes=1000))
    assert refused(fetcher, site.serve("/a", (200, {}, CONTENT))) == "media_too_many_bytes"
    unannounced = site.serve("/b", (200, {"Content-Length": "", "Connection": "close"}, CONTENT))
    assert refused(fetcher, unannounced) in ("media_too_many_bytes", "media_unavailable")
    assert refused(world.fetcher(limits=FetchLimits(total_s=-1)), site.serve("/c", (200, {}, b"x"))) == "media_too_slow"
    assert not [path for path in (tmp_path / "cache").glob("objects/*/*")]


def test_refusals_and_failures_of_the_server_are_told_apart(world: World, site: Site) -> None:
    fetcher = world.fetcher()
    assert refused(fetcher, site.serve("/a", (404, {}, b""))) == "media_not_found"
    assert refused(fetcher, site.serve("/b", (403, {}, b""))) == "media_not_readable"
    assert refused(fetcher, site.serve("/c", (200, {"Content-Encoding": "gzip"}, b"x"))) == "media_encoded"
    assert refused(fetcher, "http://gone.example/x") == "media_unavailable"
    assert world.slept == [0.5, 2.0]
    fetched = fetcher.fetch(site.serve("/d", (503, {}, b""), (500, {}, b""), (200, {}, CONTENT)))
    assert fetched.num_bytes == len(CONTENT)


def test_a_transfer_cut_off_is_not_taken_for_the_whole(world: World, site: Site) -> None:
    url = site.serve("/a", (200, {"Content-Length": "99999", "Connection": "close"}, CONTENT))
    assert refused(world.fetcher(), url) == "media_unavailable"


@pytest.fixture
def bucket() -> Iterator[Any]:
    filesystem = fsspec.filesystem("memory", skip_instance_cache=True)
    filesystem.store.clear()
    filesystem.pipe("/bucket/data/a.mp4", CONTENT)
    filesystem.pipe("/bucket/other/b.mp4", CONTENT)
    yield filesystem
    filesystem.store.clear()


def test_objects_of_allowed_buckets_are_fetched_once(world: World, bucket: Any) -> None:
    fetcher = world.fetcher(open_filesystem=lambda scheme: bucket)
    first = fetcher.fetch("gs://bucket/data/a.mp4")
    assert first.path.read_bytes() == CONTENT
    bucket.open = None  # a second reading would fail
    assert fetcher.fetch("gs://bucket/data/a.mp4") == first


def test_objects_elsewhere_are_refused(world: World, bucket: Any) -> None:
    fetcher = world.fetcher(open_filesystem=lambda scheme: bucket)
    for uri in ("gs://bucket/other/b.mp4", "gs://bucket2/data/a", "s3://bucket/data/a.mp4", "gs://bucket/data2/a"):
        assert refused(fetcher, uri) == "media_outside_roots"
    for uri in ("gs://bucket", "gs:///data/a", "gs://bucket/data/../other/b.mp4", "gs://bucket/data/a::file:///etc"):
        assert refused(fetcher, uri) == "media_uri_invalid"
    assert refused(fetcher, "gs://bucket/data/absent.mp4") == "media_not_found"


def test_a_missing_bucket_library_names_what_to_install(world: World) -> None:
    def absent(scheme: str) -> Any:
        raise ImportError(scheme)

    with pytest.raises(MediumError, match=r"pip install '\.\[gcs\]'"):
        world.fetcher(open_filesystem=absent).fetch("gs://bucket/data/a.mp4")


@pytest.mark.parametrize(
    ("uri", "site"),
    [
        ("https://www.youtube.com/watch?v=abc", "YouTube"),
        ("https://youtu.be/abc", "YouTube"),
        ("https://m.youtube.com/shorts/abc", "YouTube"),
        ("https://drive.google.com/file/d/abc/view?usp=sharing", "Google Drive"),
    ],
)
def test_a_page_about_a_film_is_told_from_a_film_before_anything_is_fetched(world: World, uri: str, site: str) -> None:
    with pytest.raises(MediumError, match=f"is a page of {site}, not a file") as caught:
        world.fetcher().fetch(uri)
    assert caught.value.fault.rule == "media_is_a_page"
    assert "Download" in caught.value.fault.hint


def test_a_data_uri_is_not_printed_and_its_place_is_named(world: World) -> None:
    with pytest.raises(MediumError) as caught:
        world.fetcher().fetch("data:image/png;base64," + "A" * 1_000_000)
    assert len(caught.value.message) < 400
    assert "1,000,022 characters" in caught.value.message and "inlineData" in caught.value.fault.hint
    with pytest.raises(MediumError) as caught:
        world.fetcher().fetch("/" + "x" * 5000)
    assert len(caught.value.message) < 400

"""Requests of the upload protocols, spelled as clients spell them."""

from typing import Any
from urllib.parse import urlsplit

import httpx

from support.api_world import World

START = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}


def started(world: World, size: int | None = None, headers: dict[str, str] | None = None, **file: Any) -> str:
    """The URL, without the host, of a new resumable upload."""
    announced = {} if size is None else {"X-Goog-Upload-Header-Content-Length": str(size)}
    asked = START | announced | (headers or {})
    answer = world.call("POST", "/upload/v1beta/files", json={"file": file}, headers=asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-goog-upload-status"] == "active"
    found = urlsplit(answer.headers["x-goog-upload-url"])
    assert (found.scheme, found.netloc) == ("http", "localhost")
    return f"{found.path}?{found.query}"


def sent(
    world: World, url: str, content: bytes, *, offset: int | str = 0, command: str = "upload, finalize"
) -> httpx.Response:
    """What a command on an upload answers."""
    headers = {"X-Goog-Upload-Command": command, "X-Goog-Upload-Offset": str(offset)}
    return world.call("POST", url, content=content, headers=headers)


def uploaded(world: World, content: bytes = b"hello file", headers: dict[str, str] | None = None) -> dict[str, Any]:
    """A file, sent in one request."""
    said = {"X-Goog-Upload-Protocol": "raw", "Content-Type": "text/plain"} | (headers or {})
    answer = world.call("POST", "/upload/v1beta/files", content=content, headers=said)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["file"])


def multipart(world: World, body: bytes, content_type: str) -> httpx.Response:
    headers = {"Content-Type": content_type}
    return world.call("POST", "/upload/v1beta/files?uploadType=multipart", content=body, headers=headers)

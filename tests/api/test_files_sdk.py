"""The unmodified google-genai SDK uploads files to a real socket."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from google import genai
from google.genai import errors, types

from support.api_world import World, listening
from support.polling import wait_until

BIG = 20 * 1024 * 1024 + 17  # three of its chunks


@pytest.fixture
def url(world: World) -> Iterator[str]:
    with listening(world) as found:
        yield found


@pytest.fixture
def client(url: str) -> Iterator[genai.Client]:
    with genai.Client(api_key="x", http_options=types.HttpOptions(base_url=url)) as made:
        yield made


def test_upload_get_list_download_delete(client: genai.Client, tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(b"hello file")
    file = client.files.upload(file=path, config={"display_name": "my file"})
    assert file.name is not None
    assert (file.display_name, file.mime_type, file.size_bytes) == ("my file", "text/plain", 10)
    assert file.state == types.FileState.ACTIVE
    assert client.files.get(name=file.name) == file.model_copy(update={"sdk_http_response": None})
    assert [listed.name for listed in client.files.list()] == [file.name]
    assert client.files.download(file=file.name) == b"hello file"
    client.files.delete(name=file.name)
    assert list(client.files.list()) == []
    with pytest.raises(errors.ClientError, match="You do not have permission to access the File"):
        client.files.get(name=file.name)


def test_a_file_of_several_chunks_arrives_as_it_was(client: genai.Client, tmp_path: Path) -> None:
    path, content = tmp_path / "data.jsonl", os.urandom(BIG)
    path.write_bytes(content)
    config = types.UploadFileConfig(name="my-named-file", mime_type="application/jsonl")
    file = client.files.upload(file=path, config=config)
    assert (file.name, file.size_bytes) == ("files/my-named-file", BIG)
    assert client.files.download(file=file) == content
    with pytest.raises(errors.ClientError) as caught:
        client.files.upload(file=path, config=config)
    assert caught.value.code == 409


def test_a_chunk_that_broke_off_is_taken_up_where_it_ended(url: str, client: genai.Client) -> None:
    content = os.urandom(3_000_000)
    start = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}
    session = httpx.post(f"{url}/upload/v1/files", headers=start).headers["x-goog-upload-url"]

    def cut() -> Iterator[bytes]:
        yield content[:1_000_000]
        raise ConnectionError("pulled out")

    headers = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
    with pytest.raises(ConnectionError):
        httpx.post(session, content=cut(), headers=headers | {"Content-Length": str(len(content))})
    wait_until(lambda: arrived(session) > 0)
    begin, rest = arrived(session), httpx.Response(400)
    while rest.status_code != 200:  # the server may still be at what had come before
        rest = httpx.post(session, content=content[begin:], headers=headers | {"X-Goog-Upload-Offset": str(begin)})
        begin = int(rest.headers["x-goog-upload-size-received"])
    assert rest.headers["x-goog-upload-status"] == "final"
    assert client.files.download(file=rest.json()["file"]["name"]) == content


def test_a_file_in_one_request_that_broke_off_leaves_nothing(url: str, world: World) -> None:
    def cut() -> Iterator[bytes]:
        yield b"x" * 1_000_000
        raise ConnectionError("pulled out")

    headers = {"X-Goog-Upload-Protocol": "raw", "Content-Length": "3000000"}
    with pytest.raises(ConnectionError):
        httpx.post(f"{url}/upload/v1/files", content=cut(), headers=headers)
    partial = world.folder / "files" / "partial"
    wait_until(lambda: partial.exists() and not list(partial.iterdir()))
    assert not (world.folder / "files" / "content").exists()


def arrived(session: str) -> int:
    """How many bytes the server has of the upload."""
    answer = httpx.post(session, headers={"X-Goog-Upload-Command": "query"})
    assert answer.headers["x-goog-upload-status"] == "active"
    return int(answer.headers["x-goog-upload-size-received"])

"""The Gemini API's routes for files that are there: list, get, download, delete. How they come is in `uploads`.

Mirrors gemini-api.md §1 and §2.8. Whatever was uploaded is served as an attachment of its declared type only: a page
among the files must not run as a page of this server.
"""

import base64
from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator
from starlette.responses import FileResponse
from starlette.routing import Route

from kastor.api.google.methods import MethodRoutes
from kastor.api.http.endpoint import ApiRequest, ListSchema, Reply
from kastor.api.http.paging import page_position, page_size, position_token
from kastor.api.http.protojson import ProtoModel, describe_value, timestamp
from kastor.domain.errors import InvalidArgument
from kastor.domain.file import StoredFile
from kastor.services.files import FileService

MAX_PAGE_SIZE = 100
INT64_DIGITS = 18
UPLOAD_INSTEAD = (
    "this method takes no bytes, and a file without any is of no use. Upload to POST /upload{version}/files, as "
    "client.files.upload of google-genai does, or curl with X-Goog-Upload-Protocol: raw"
)
HARMLESS = {"x-content-type-options": "nosniff", "content-security-policy": "sandbox; default-src 'none'"}


def _size(value: object) -> int:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= INT64_DIGITS:
        return int(value)
    if number is None or not number.is_integer() or not 0 <= number < 10**INT64_DIGITS:
        raise ValueError(f"must be a whole number from 0, not {describe_value(value)}")
    return int(number)


class FileIn(ProtoModel):
    """google.ai.generativelanguage.v1beta.File, as clients send it; what only the server sets is let through."""

    name: str | None = None
    display_name: str | None = None
    mime_type: str | None = None
    size_bytes: Annotated[int, BeforeValidator(_size)] | None = None
    create_time: object = None
    update_time: object = None
    expiration_time: object = None
    sha256_hash: object = None
    uri: object = None
    download_uri: object = None
    state: object = None
    source: object = None
    error: object = None
    video_metadata: object = None


class UploadIn(ProtoModel):
    """google.ai.generativelanguage.v1beta.CreateFileRequest."""

    file: FileIn | None = None


class FileOut(ProtoModel):
    """google.ai.generativelanguage.v1beta.File."""

    name: str
    display_name: str | None
    mime_type: str
    size_bytes: str
    create_time: str | None
    update_time: str | None
    expiration_time: str | None
    sha256_hash: str
    uri: str
    download_uri: str
    state: str = "ACTIVE"
    source: str = "UPLOADED"


def file_out(file: StoredFile, base_url: str) -> FileOut:
    """The file as a message, for a caller who reaches this server at `base_url`."""
    uri = f"{base_url}/v1beta/{file.name}"
    return FileOut(
        name=file.name,
        display_name=file.display_name or None,
        mime_type=file.mime_type,
        size_bytes=str(file.size_bytes),
        create_time=timestamp(file.created_at),
        update_time=timestamp(file.updated_at),
        expiration_time=timestamp(file.expires_at),
        sha256_hash=base64.b64encode(file.sha256.encode("ascii")).decode("ascii"),  # of the text, as Google does
        uri=uri,
        download_uri=f"{uri}:download?alt=media",
    )


class FileRoutes:
    """Handlers of the files."""

    def __init__(self, service: FileService) -> None:
        self._service = service

    def routes(self, methods: MethodRoutes) -> Sequence[Route]:
        """The routes of all of them."""
        return [
            methods.route("media.upload", self.create, takes=UploadIn),
            methods.route("files.list", self.list_files, gives=ListSchema("files", FileOut)),
            methods.route("files.download", self.download, alts=("media", "json")),
            methods.route("files.get", self.get, gives=FileOut),
            methods.route("files.delete", self.delete),
        ]

    def create(self, call: ApiRequest) -> Reply:
        """The method files.create, which this server does not have."""
        raise InvalidArgument.of("file", UPLOAD_INSTEAD.format(version="/v1beta"))

    def get(self, call: ApiRequest) -> Reply:
        """The method files.get."""
        return file_out(self._service.get(call.path["file"], call.principal), call.base_url).json_value()

    def list_files(self, call: ApiRequest) -> Reply:
        """The method files.list."""
        size, before = page_size(call, most=MAX_PAGE_SIZE), page_position(call)
        page = self._service.page(call.principal, limit=size, before=before)
        if not page.items:
            return {}
        listed: dict[str, object] = {"files": [file_out(file, call.base_url).json_value() for file in page.items]}
        if not page.more:
            return listed
        last = page.items[-1]
        return listed | {"nextPageToken": position_token(last.created_at, last.id)}

    def delete(self, call: ApiRequest) -> Reply:
        """The method files.delete."""
        self._service.delete(call.path["file"], call.principal)
        return {}

    def download(self, call: ApiRequest) -> Reply:
        """The method files.download: the bytes, or the ranges of them that are asked for."""
        file = self._service.get(call.path["file"], call.principal)
        path = self._service.path_of(file.name, call.principal)
        return FileResponse(path, media_type=file.mime_type, filename=file.display_name or file.id, headers=HARMLESS)

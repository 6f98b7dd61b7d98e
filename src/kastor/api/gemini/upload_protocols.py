"""The two dialects of resumable uploads: what a request to a session's URL wants, and how it is answered.

Google's own, `X-Goog-Upload-*`, which google-genai speaks; and `Content-Range` with 308, which google-api-python-client
speaks. Mirrors gemini-api.md §5.1.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.responses import Response

from kastor.api.gemini.files import file_out
from kastor.api.http.endpoint import json_response
from kastor.api.http.errors import HTTP_STATUS, error_body
from kastor.domain.errors import InvalidArgument, KastorError, ResourceExhausted, Superseded, Unavailable
from kastor.domain.file import StoredFile
from kastor.services.files import UploadStatus

STATUS, RECEIVED = "X-Goog-Upload-Status", "X-Goog-Upload-Size-Received"
GRANULARITY = {"X-Goog-Upload-Chunk-Granularity": "1"}  # chunks may have any size
CONTENT_RANGE = re.compile(r"bytes (?:(?P<first>\d{1,18})-(?P<last>\d{1,18})|\*)/(?P<total>\d{1,18}|\*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class UploadCommand:
    """What a request to a session wants."""

    offset: int | None = None  # bytes are to be added from here on
    finish: bool = False
    cancel: bool = False


class ResumableProtocol(Protocol):
    """A dialect of resumable uploads."""

    def command(self, headers: Mapping[str, str], received: Callable[[], int]) -> UploadCommand:
        """What is wanted; raises `InvalidArgument` if that cannot be made out."""

    def state(self, progress: UploadStatus) -> Response:
        """The answer that says how far the upload is."""

    def refusal(self, error: KastorError, progress: UploadStatus | None) -> Response:
        """The answer that says what went wrong; `progress` is absent if the upload is no more."""


class XGoogUploadProtocol:
    """X-Goog-Upload-Command and its like, as google-genai speaks it."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    def command(self, headers: Mapping[str, str], received: Callable[[], int]) -> UploadCommand:
        """What the command says."""
        commands = {word.strip().lower() for word in headers["x-goog-upload-command"].split(",")}
        if commands == {"query"}:
            return UploadCommand()
        if commands == {"cancel"}:
            return UploadCommand(cancel=True)
        if commands == {"finalize"}:
            return UploadCommand(finish=True)
        if commands not in ({"upload"}, {"upload", "finalize"}):
            raise InvalidArgument(
                f"X-Goog-Upload-Command {headers['x-goog-upload-command'][:40]!r} is none for an upload that has "
                "begun; use upload, finalize, query or cancel."
            )
        offset = parse_nonnegative_int(headers.get("x-goog-upload-offset", ""), "X-Goog-Upload-Offset")
        return UploadCommand(offset=offset, finish="finalize" in commands)

    def state(self, progress: UploadStatus) -> Response:
        """The status in headers; the file once it is there."""
        if progress.file is None:
            return Response(headers={STATUS: "active", RECEIVED: str(progress.received), **GRANULARITY})
        return _with(file_response(progress.file, self._base_url), {RECEIVED: str(progress.received)})

    def refusal(self, error: KastorError, progress: UploadStatus | None) -> Response:
        """The error, and whether and where to go on. Without a status google-genai tries again by itself."""
        response = _said(error)
        if isinstance(error, ResourceExhausted | Unavailable):
            return response
        if progress is None:
            return _with(response, {STATUS: "final"})
        status = "active" if progress.file is None else "final"
        return _with(response, {STATUS: status, RECEIVED: str(progress.received)})


class ContentRangeProtocol:
    """Content-Range and 308, as google-api-python-client speaks it."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    def command(self, headers: Mapping[str, str], received: Callable[[], int]) -> UploadCommand:
        """What Content-Range says; without it the body is the whole file."""
        said = headers.get("content-range")
        if said is None:
            return UploadCommand(offset=0, finish=True)
        found = CONTENT_RANGE.fullmatch(said.strip())
        if found is None:
            raise InvalidArgument(f"Content-Range {said[:80]!r} is not bytes FIRST-LAST/TOTAL or bytes */TOTAL.")
        first, last, total = found["first"], found["last"], found["total"]
        if first is None:
            return UploadCommand(finish=total != "*" and received() == int(total))
        if int(last) < int(first) or (total != "*" and int(last) >= int(total)):
            raise InvalidArgument(f"Content-Range {said[:80]!r} ends before its beginning, or behind the total.")
        announced = headers.get("content-length", "")
        if announced.isdecimal() and len(announced) <= 18 and int(announced) != int(last) - int(first) + 1:
            raise InvalidArgument(f"Content-Range {said[:80]!r} does not fit the body of {announced} bytes.")
        return UploadCommand(offset=int(first), finish=total != "*" and int(last) + 1 == int(total))

    def state(self, progress: UploadStatus) -> Response:
        """308 with what is there, or the file."""
        if progress.file is not None:
            return file_response(progress.file, self._base_url)
        there = {"Range": f"bytes=0-{progress.received - 1}"} if progress.received else {}
        return Response(status_code=308, headers=there)

    def refusal(self, error: KastorError, progress: UploadStatus | None) -> Response:
        """The error; bytes from a wrong place are answered by the right one, with which clients go on."""
        if isinstance(error, Superseded) and progress is not None:
            return self.state(progress)
        return _said(error)


def parse_nonnegative_int(text: str, what: str) -> int:
    """The number that a header says.

    Raises:
        InvalidArgument: it is not a whole number from 0.

    """
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InvalidArgument(f"{what} is {text[:20]!r}, not a whole number from 0.")
    return int(text)


def file_response(file: StoredFile, base_url: str) -> Response:
    """The answer that gives the file."""
    return _with(json_response({"file": file_out(file, base_url).json_value()}), {STATUS: "final"})


def _said(error: KastorError) -> Response:
    return json_response(error_body(error), status=HTTP_STATUS[error.code])


def _with(response: Response, headers: Mapping[str, str]) -> Response:
    response.headers.update(headers)
    return response

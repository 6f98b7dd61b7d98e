"""How files come: Google's upload protocols, resumable in two dialects and all at once in two forms.

Mirrors gemini-api.md §5.1. An upload in one request is an upload session that nobody else knows of, so there is one way
for bytes to come in. A session's URL is its credential: the secret stands in the query, which is not logged.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from starlette.responses import Response
from starlette.routing import Route

from kastor.api.errors import HTTP_STATUS, error_body
from kastor.api.files import FileIn, UploadIn, file_out
from kastor.api.http import Call, Endpoints, json_response
from kastor.api.multipart import MAX_JSON_BYTES, TwoParts, boundary_of
from kastor.api.receiving import Receiving, Sink
from kastor.api.wire import message
from kastor.domain.errors import InvalidArgument, KastorError, NotFound, ResourceExhausted, Superseded, Unavailable
from kastor.domain.file import StoredFile
from kastor.domain.permission import Principal
from kastor.jobs.files import Appending, FileService, NewFile, Progress

SESSION = "/upload/session"
STATUS, RECEIVED = "X-Goog-Upload-Status", "X-Goog-Upload-Size-Received"
GRANULARITY = {"X-Goog-Upload-Chunk-Granularity": "1"}  # chunks may have any size
CONTENT_RANGE = re.compile(r"bytes (?:(?P<first>\d{1,18})-(?P<last>\d{1,18})|\*)/(?P<total>\d{1,18}|\*)", re.ASCII)
HOW = (
    "Say how the file comes: X-Goog-Upload-Protocol: resumable (with X-Goog-Upload-Command: start), multipart or raw; "
    "or uploadType=resumable, multipart or media."
)


class UploadRoutes:
    """Handlers of uploads."""

    def __init__(self, service: FileService) -> None:
        self._service = service

    def routes(self, endpoints: Endpoints, versions: Sequence[str]) -> Sequence[Route]:
        """All of them, under all versions."""
        receiving = Receiving(endpoints)
        paths = [f"{prefix}{version}/files" for version in versions for prefix in ("/upload", "/resumable/upload")]
        return [
            *(receiving.route(path, ["POST"], self.open) for path in paths),
            receiving.route(SESSION, ["POST", "PUT"], self.go_on, query=("upload_id",), keyless=True),
        ]

    def open(self, call: Call) -> Sink:
        """The method media.upload, in whichever protocol."""
        said = call.headers.get("x-goog-upload-protocol") or call.query.get("upload_type")
        protocol = (said or call.query.get("upload_protocol") or "").lower()
        if protocol == "resumable":
            _check_start(call)
            return _Start(self._service, call)
        if protocol == "multipart":
            return _Multipart(self._service, call)
        if protocol in ("raw", "media"):
            return _Raw(self._service, call)
        raise InvalidArgument(HOW)

    def go_on(self, call: Call) -> Sink:
        """A request to a session's URL."""
        secret = call.query.get("upload_id", "")
        goog = "x-goog-upload-command" in call.headers
        manner: Manner = GoogManner(call.base_url) if goog else RangeManner(call.base_url)
        return _Session(self._service, secret, manner, call)


class Manner(Protocol):
    """A dialect of resumable uploads."""

    def wish(self, headers: Mapping[str, str], received: Callable[[], int]) -> "Wish":
        """What is wanted; raises `InvalidArgument` if that cannot be made out."""

    def state(self, progress: Progress) -> Response:
        """The answer that says how far the upload is."""

    def refusal(self, error: KastorError, progress: Progress | None) -> Response:
        """The answer that says what went wrong; `progress` is absent if the upload is no more."""


class Wish:
    """What a request to a session wants."""

    def __init__(self, *, offset: int | None = None, finish: bool = False, cancel: bool = False) -> None:
        self.offset = offset  # bytes are to be added from here on
        self.finish = finish
        self.cancel = cancel


class GoogManner:
    """X-Goog-Upload-Command and its like, as google-genai speaks it."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    def wish(self, headers: Mapping[str, str], received: Callable[[], int]) -> Wish:
        """What the command says."""
        commands = {word.strip().lower() for word in headers["x-goog-upload-command"].split(",")}
        if commands == {"query"}:
            return Wish()
        if commands == {"cancel"}:
            return Wish(cancel=True)
        if commands == {"finalize"}:
            return Wish(finish=True)
        if commands not in ({"upload"}, {"upload", "finalize"}):
            raise InvalidArgument(
                f"X-Goog-Upload-Command {headers['x-goog-upload-command'][:40]!r} is none for an upload that has "
                "begun; use upload, finalize, query or cancel."
            )
        offset = whole_number(headers.get("x-goog-upload-offset", ""), "X-Goog-Upload-Offset")
        return Wish(offset=offset, finish="finalize" in commands)

    def state(self, progress: Progress) -> Response:
        """The status in headers; the file once it is there."""
        if progress.file is None:
            return Response(headers={STATUS: "active", RECEIVED: str(progress.received), **GRANULARITY})
        return _with(_made(progress.file, self._base_url), {STATUS: "final", RECEIVED: str(progress.received)})

    def refusal(self, error: KastorError, progress: Progress | None) -> Response:
        """The error, and whether and where to go on. Without a status google-genai tries again by itself."""
        response = _said(error)
        if isinstance(error, ResourceExhausted | Unavailable):
            return response
        if progress is None:
            return _with(response, {STATUS: "final"})
        status = "active" if progress.file is None else "final"
        return _with(response, {STATUS: status, RECEIVED: str(progress.received)})


class RangeManner:
    """Content-Range and 308, as google-api-python-client speaks it."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    def wish(self, headers: Mapping[str, str], received: Callable[[], int]) -> Wish:
        """What Content-Range says; without it the body is the whole file."""
        said = headers.get("content-range")
        if said is None:
            return Wish(offset=0, finish=True)
        found = CONTENT_RANGE.fullmatch(said.strip())
        if found is None:
            raise InvalidArgument(f"Content-Range {said[:80]!r} is not bytes FIRST-LAST/TOTAL or bytes */TOTAL.")
        first, last, total = found["first"], found["last"], found["total"]
        if first is None:
            return Wish(finish=total != "*" and received() == int(total))
        if int(last) < int(first) or (total != "*" and int(last) >= int(total)):
            raise InvalidArgument(f"Content-Range {said[:80]!r} ends before its beginning, or behind the total.")
        announced = headers.get("content-length", "")
        if announced.isdigit() and int(announced) != int(last) - int(first) + 1:
            raise InvalidArgument(f"Content-Range {said[:80]!r} does not fit the body of {announced} bytes.")
        return Wish(offset=int(first), finish=total != "*" and int(last) + 1 == int(total))

    def state(self, progress: Progress) -> Response:
        """308 with what is there, or the file."""
        if progress.file is not None:
            return _made(progress.file, self._base_url)
        there = {"Range": f"bytes=0-{progress.received - 1}"} if progress.received else {}
        return Response(status_code=308, headers=there)

    def refusal(self, error: KastorError, progress: Progress | None) -> Response:
        """The error; bytes from a wrong place are answered by the right one, with which clients go on."""
        if isinstance(error, Superseded) and progress is not None:
            return self.state(progress)
        return _said(error)


class _Session:
    """A request to a session's URL."""

    def __init__(self, service: FileService, secret: str, manner: Manner, call: Call) -> None:
        self._service = service
        self._secret = secret
        self._manner = manner
        self._headers = call.headers
        self._wish: Wish | None = None
        self._appending: Appending | None = None

    def write(self, piece: bytes) -> None:
        """Add to the upload."""
        wish = self._wanted()
        if wish.offset is None:
            raise InvalidArgument("This command takes no bytes.")
        self._opened(wish.offset).write(piece)

    def finish(self) -> Response:
        """Do what was wanted, and say how far the upload is."""
        wish = self._wanted()
        if wish.cancel:
            self._service.cancel(self._secret)
            return Response(headers={STATUS: "cancelled"})
        if wish.offset is not None:
            self._opened(wish.offset).settle()
        if wish.finish:
            self._service.finish(self._secret)
        return self._manner.state(self._service.progress(self._secret))

    def refused(self, error: KastorError) -> Response:
        """The error, with how far the upload is."""
        try:
            progress = self._service.progress(self._secret)
        except NotFound:
            progress = None
        return self._manner.refusal(error, progress)

    def close(self) -> None:
        """What arrived stays: the client may go on."""
        if self._appending is not None:
            self._appending.close()

    def _wanted(self) -> Wish:
        if self._wish is None:
            self._wish = self._manner.wish(self._headers, lambda: self._service.progress(self._secret).received)
        return self._wish

    def _opened(self, offset: int) -> Appending:
        if self._appending is None:
            self._appending = self._service.append(self._secret, offset)
        return self._appending


class _Start:
    """Begins a session: the body is the file's description."""

    def __init__(self, service: FileService, call: Call) -> None:
        self._service = service
        self._call = call
        self._body = b""

    def write(self, piece: bytes) -> None:
        """Gather the description."""
        self._body += piece
        if len(self._body) > MAX_JSON_BYTES:
            raise InvalidArgument(
                f"The description of a file has at most {MAX_JSON_BYTES} bytes. Its own bytes go to the URL of the "
                "answer, in requests that follow."
            )

    def finish(self) -> Response:
        """Where the bytes are to go."""
        headers, call = self._call.headers, self._call
        size = _header(headers, "x-goog-upload-header-content-length", "x-upload-content-length")
        kind = _header(headers, "x-goog-upload-header-content-type", "x-upload-content-type")
        new = new_file(self._body, kind, _file_name(headers), size)
        url = f"{call.base_url}{SESSION}?upload_id={self._service.begin(new, call.principal)}"
        told = {"X-Goog-Upload-URL": url, "Location": url, STATUS: "active", "X-Goog-Upload-Control-URL": url}
        return Response(headers=told | GRANULARITY)

    def refused(self, error: KastorError) -> Response:
        """The error as anywhere."""
        raise error

    def close(self) -> None:
        """Nothing is held."""


class _Whole:
    """A file in one request: a session of its own, dropped unless the body was whole."""

    def __init__(self, service: FileService, call: Call) -> None:
        self._service = service
        self._base_url = call.base_url
        self._caller: Principal = call.principal
        self._secret: str | None = None
        self._appending: Appending | None = None

    def begin(self, new: NewFile) -> Appending:
        """Where the bytes go."""
        self._secret = self._service.begin(new, self._caller)
        self._appending = self._service.append(self._secret, 0)
        return self._appending

    def made(self) -> Response:
        """The file that the bytes have become."""
        if self._secret is None:
            raise InvalidArgument(HOW)
        file = self._service.finish(self._secret)
        self._secret = None
        return _made(file, self._base_url)

    def refused(self, error: KastorError) -> Response:
        """The error as anywhere."""
        raise error

    def close(self) -> None:
        """Nothing stays of what is no file."""
        if self._appending is not None:
            self._appending.close()
        if self._secret is not None:
            with suppress(KastorError):  # it may be gone by now; what cannot be dropped now is tidied up in a day
                self._service.cancel(self._secret)


class _Raw(_Whole):
    """The body is the file."""

    def __init__(self, service: FileService, call: Call) -> None:
        super().__init__(service, call)
        self._headers = call.headers

    def write(self, piece: bytes) -> None:
        """Add to the file."""
        (self._appending or self._begun()).write(piece)

    def finish(self) -> Response:
        """The file."""
        if self._appending is None:
            self._begun()
        return self.made()

    def _begun(self) -> Appending:
        kind = _header(self._headers, "x-goog-upload-header-content-type") or self._headers.get("content-type", "")
        unsaid = kind == "application/x-www-form-urlencoded"  # which curl says unless told otherwise
        size = self._headers.get("content-length", "")
        return self.begin(new_file(b"", "" if unsaid else kind, _file_name(self._headers), size))


class _Multipart(_Whole):
    """The body is the file's description, then the file."""

    def __init__(self, service: FileService, call: Call) -> None:
        super().__init__(service, call)
        self._file_name = _file_name(call.headers)
        self._parts = TwoParts(boundary_of(call.headers.get("content-type", "")), self._described, self._add)

    def write(self, piece: bytes) -> None:
        """Take the body apart."""
        self._parts.feed(piece)

    def finish(self) -> Response:
        """The file."""
        self._parts.end()
        return self.made()

    def _described(self, description: bytes, content_type: str) -> None:
        self.begin(new_file(description, content_type, self._file_name, ""))

    def _add(self, piece: bytes) -> None:
        if self._appending is not None:
            self._appending.write(piece)


def new_file(description: bytes, content_type: str, file_name: str, size: str) -> NewFile:
    """The file that is to come; the description goes before the headers.

    Raises:
        InvalidArgument: the description cannot be read, or a size is none.

    """
    said = message(UploadIn, description, root="create_file_request", may_be_empty=True).file or FileIn()
    announced = whole_number(size, "The announced size") if size else said.size_bytes
    return NewFile(
        name=said.name or "",
        display_name=said.display_name or "",
        mime_type=said.mime_type or content_type,
        file_name=file_name,
        size_bytes=announced,
    )


def whole_number(text: str, what: str) -> int:
    """The number that a header says.

    Raises:
        InvalidArgument: it is not a whole number from 0.

    """
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InvalidArgument(f"{what} is {text[:20]!r}, not a whole number from 0.")
    return int(text)


def _check_start(call: Call) -> None:
    command = call.headers.get("x-goog-upload-command", "start").strip().lower()
    if command != "start":
        raise InvalidArgument(
            f"X-Goog-Upload-Command {command[:40]!r} goes to the X-Goog-Upload-URL of an upload; one begins with start."
        )


def _header(headers: Mapping[str, str], *names: str) -> str:
    return next((found for name in names if (found := headers.get(name))), "")


def _file_name(headers: Mapping[str, str]) -> str:
    return headers.get("x-goog-upload-file-name", "")


def _made(file: StoredFile, base_url: str) -> Response:
    return json_response({"file": file_out(file, base_url).json_value()})


def _said(error: KastorError) -> Response:
    return json_response(error_body(error), status=HTTP_STATUS[error.code])


def _with(response: Response, headers: Mapping[str, str]) -> Response:
    response.headers.update(headers)
    return response

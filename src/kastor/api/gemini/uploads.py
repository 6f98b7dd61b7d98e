"""How files come: Google's upload protocols, resumable in two dialects and all at once in two forms.

Mirrors gemini-api.md §5.1. An upload in one request is an upload session that nobody else knows of, so there is one way
for bytes to come in. A session's URL is its credential: the secret stands in the query, which is not logged.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from starlette.responses import Response
from starlette.routing import Route

from kastor.api.gemini.files import FileIn, UploadIn
from kastor.api.gemini.upload_protocols import (
    GRANULARITY,
    STATUS,
    ContentRangeProtocol,
    ResumableProtocol,
    UploadCommand,
    XGoogUploadProtocol,
    file_response,
    parse_nonnegative_int,
)
from kastor.api.http.endpoint import ApiRequest, RouteFactory
from kastor.api.http.multipart import MAX_JSON_BYTES, MultipartRelatedParser, parse_boundary
from kastor.api.http.protojson import parse_message
from kastor.api.http.streamed_body import BodySink, StreamedBodyRoutes
from kastor.domain.errors import InvalidArgument, KastorError, NotFound
from kastor.domain.permission import Principal
from kastor.services.files import FileService, NewFile, UploadWriter

SESSION = "/upload/session"
HOW = (
    "Say how the file comes: X-Goog-Upload-Protocol: resumable (with X-Goog-Upload-Command: start), multipart or raw; "
    "or uploadType=resumable, multipart or media."
)


class UploadRoutes:
    """Handlers of uploads."""

    def __init__(self, service: FileService) -> None:
        self._service = service

    def routes(self, endpoints: RouteFactory, versions: Sequence[str]) -> Sequence[Route]:
        """All of them, under all versions."""
        receiving = StreamedBodyRoutes(endpoints)
        paths = [f"{prefix}/{version}/files" for version in versions for prefix in ("/upload", "/resumable/upload")]
        return [
            *(receiving.route(path, ["POST"], self.open) for path in paths),
            receiving.route(SESSION, ["POST", "PUT"], self.go_on, query=("upload_id",), keyless=True),
        ]

    def open(self, call: ApiRequest) -> BodySink:
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

    def go_on(self, call: ApiRequest) -> BodySink:
        """A request to a session's URL."""
        secret = call.query.get("upload_id", "")
        goog = "x-goog-upload-command" in call.headers
        manner: ResumableProtocol = XGoogUploadProtocol(call.base_url) if goog else ContentRangeProtocol(call.base_url)
        return _Session(self._service, secret, manner, call)


class _Session:
    """A request to a session's URL."""

    def __init__(self, service: FileService, secret: str, manner: ResumableProtocol, call: ApiRequest) -> None:
        self._service = service
        self._secret = secret
        self._manner = manner
        self._headers = call.headers
        self._wish: UploadCommand | None = None
        self._appending: UploadWriter | None = None

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

    def _wanted(self) -> UploadCommand:
        if self._wish is None:
            self._wish = self._manner.command(self._headers, lambda: self._service.progress(self._secret).received)
        return self._wish

    def _opened(self, offset: int) -> UploadWriter:
        if self._appending is None:
            self._appending = self._service.append(self._secret, offset)
        return self._appending


class _Start:
    """Begins a session: the body is the file's description."""

    def __init__(self, service: FileService, call: ApiRequest) -> None:
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

    def __init__(self, service: FileService, call: ApiRequest) -> None:
        self._service = service
        self._base_url = call.base_url
        self._caller: Principal = call.principal
        self._secret: str | None = None
        self._appending: UploadWriter | None = None

    def begin(self, new: NewFile) -> UploadWriter:
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
        return file_response(file, self._base_url)

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

    def __init__(self, service: FileService, call: ApiRequest) -> None:
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

    def _begun(self) -> UploadWriter:
        kind = _header(self._headers, "x-goog-upload-header-content-type") or self._headers.get("content-type", "")
        unsaid = kind == "application/x-www-form-urlencoded"  # which curl says unless told otherwise
        size = self._headers.get("content-length", "")
        return self.begin(new_file(b"", "" if unsaid else kind, _file_name(self._headers), size))


class _Multipart(_Whole):
    """The body is the file's description, then the file."""

    def __init__(self, service: FileService, call: ApiRequest) -> None:
        super().__init__(service, call)
        self._file_name = _file_name(call.headers)
        self._parts = MultipartRelatedParser(
            parse_boundary(call.headers.get("content-type", "")), self._described, self._add
        )

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
    said = parse_message(UploadIn, description, root="create_file_request", may_be_empty=True).file or FileIn()
    announced = parse_nonnegative_int(size, "The announced size") if size else said.size_bytes
    return NewFile(
        name=said.name or "",
        display_name=said.display_name or "",
        mime_type=said.mime_type or content_type,
        file_name=file_name,
        size_bytes=announced,
    )


def _check_start(call: ApiRequest) -> None:
    command = call.headers.get("x-goog-upload-command", "start").strip().lower()
    if command != "start":
        raise InvalidArgument(
            f"X-Goog-Upload-Command {command[:40]!r} goes to the X-Goog-Upload-URL of an upload; one begins with start."
        )


def _header(headers: Mapping[str, str], *names: str) -> str:
    return next((found for name in names if (found := headers.get(name))), "")


def _file_name(headers: Mapping[str, str]) -> str:
    return headers.get("x-goog-upload-file-name", "")

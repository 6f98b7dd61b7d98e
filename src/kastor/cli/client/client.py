"""HTTP client of a Kastor server: returns values and raises `KastorError`s."""

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from kastor.cli.client.messages import GeneratedAnswer, Job, NewTuning, SamplingOptions, TunedModelRecord
from kastor.domain.errors import Code, Internal, InvalidArgument, KastorError, PermissionDenied, Unavailable
from kastor.domain.excerpt import shortened
from kastor.runtime.ndjson import split_newlines
from kastor.security.auth import INVALID_KEY, UNREGISTERED

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
GENERATE_TIMEOUT_S = 900.0  # the first answer may wait for a base model to be fetched and loaded
PAGE_SIZE = 100
MAX_SHOWN_CHARS = 80
BOUNDARY = f"kastor-{secrets.token_hex(16)}"  # random, so that no file can contain it
EPILOGUE = f"\r\n--{BOUNDARY}--\r\n".encode()
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Client:
    """Calls one server. Safe to use from several threads at once."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise InvalidArgument("The API key contains characters that no key has. Check KASTOR_API_KEY or --api-key.")
        headers = {"x-goog-api-key": api_key} if api_key else {}
        try:
            parts = urlsplit(self.url)
            loopback = parts.hostname in LOOPBACK
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                trust_env=not loopback,  # no proxy can reach this machine's loopback
                verify=not loopback or parts.scheme == "https",  # plain HTTP needs no authorities: 25 ms to load
            )
        except (ValueError, httpx.InvalidURL) as error:
            raise self._invalid_address() from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def instance(self, timeout_s: float) -> str | None:
        """The instance id that the server drew when it started; `None` if it reports none."""
        return self._json("GET", "/healthz", timeout_s=timeout_s).get("instance")

    # jobs

    def create_tuning(self, new: NewTuning) -> tuple[str, str]:
        """Start tuning; returns the job's id and the tuned model's name."""
        params = {"tunedModelId": new.model_id} if new.model_id else {}
        operation = self._json("POST", "/v1beta/tunedModels", params=params, body=new.body())
        try:
            return operation["name"].rsplit("/", 1)[-1], operation["metadata"]["tunedModel"]
        except (KeyError, TypeError) as error:
            raise self._not_kastor(json.dumps(operation)) from error

    def upload(self, path: Path, name: str) -> str:
        """Upload a file; returns its resource name."""
        headers = {
            "X-Goog-Upload-Protocol": "multipart",
            "Content-Type": f"multipart/related; boundary={BOUNDARY}",
            "Content-Length": str(len(_preamble(name)) + path.stat().st_size + len(EPILOGUE)),
        }
        with self._translated_errors(), path.open("rb") as file:
            body = chain([_preamble(name)], iter(lambda: file.read(1 << 20), b""), [EPILOGUE])
            answer = self._http.post("/upload/v1beta/files", content=body, headers=headers)
        self._raise_for(answer)
        return str(self._decoded(answer.text)["file"]["name"])

    def create_job(self, body: Mapping[str, object]) -> Job:
        """Start tuning on a dataset file."""
        return Job.of(self._json("POST", "/kastor/v1/jobs", body=body))

    def job(self, job_id: str, *, full: bool = False) -> Job:
        """The job; if `full`, with its events and snapshots."""
        params = {"view": "full"} if full else {}
        return Job.of(self._json("GET", f"/kastor/v1/jobs/{_segment(job_id)}", params=params))

    def jobs(self, limit: int) -> list[Job]:
        """The newest `limit` jobs."""
        return [Job.of(item) for item in self._pages("/kastor/v1/jobs", "jobs", limit)]

    def cancel(self, job_id: str) -> Job:
        """Ask the job to stop; returns its new state."""
        return Job.of(self._json("POST", f"/kastor/v1/jobs/{_segment(job_id)}:cancel", body={}))

    def resume(self, job_id: str) -> Job:
        """Start a new job that continues this failed one from its last checkpoint."""
        return Job.of(self._json("POST", f"/kastor/v1/jobs/{_segment(job_id)}:resume", body={}))

    def log(self, job_id: str, offset: int) -> tuple[bytes, int]:
        """The job's log from byte `offset` on, and the offset of the next read."""
        path = f"/kastor/v1/jobs/{_segment(job_id)}/log"
        with self._translated_errors():
            answer = self._http.get(path, params={"offset": str(offset)})
        self._raise_for(answer)
        return answer.content, int(answer.headers.get("x-kastor-next-offset", offset + len(answer.content)))

    # models

    def base_models(self) -> list[dict[str, Any]]:
        """The base models that the server offers, as raw JSON."""
        return self._pages("/v1beta/models", "models", None)

    def tuned_models(self) -> list[TunedModelRecord]:
        """All tuned models, newest first."""
        return [TunedModelRecord.of(item) for item in self._pages("/v1beta/tunedModels", "tunedModels", None)]

    def tuned_model(self, name: str) -> TunedModelRecord:
        """The tuned model with this resource name, `tunedModels/…`."""
        return TunedModelRecord.of(self._json("GET", f"/v1beta/{_resource(name)}"))

    def base_model(self, name: str) -> dict[str, Any]:
        """The base model `models/…`, as raw JSON."""
        return self._json("GET", f"/v1beta/{_resource(name)}")

    def delete_tuned_model(self, name: str) -> None:
        """Delete the tuned model with its job, checkpoints and log."""
        self._json("DELETE", f"/v1beta/{_resource(name)}")

    # generation

    def generate(self, model: str, prompt: str, sampling: SamplingOptions) -> GeneratedAnswer:
        """The complete answer to a prompt."""
        return self.answer(model, sampling.body(prompt))

    def answer(self, model: str, body: Mapping[str, object]) -> GeneratedAnswer:
        """The complete answer to a GenerateContentRequest."""
        path = f"/v1beta/{_resource(model)}:generateContent"
        return GeneratedAnswer.of(self._json("POST", path, body=body, timeout_s=GENERATE_TIMEOUT_S))

    def stream(self, model: str, prompt: str, sampling: SamplingOptions) -> Iterator[GeneratedAnswer]:
        """Stream the answer in chunks; token counts and the finish reason come with the last one."""
        path = f"/v1beta/{_resource(model)}:streamGenerateContent"
        timeout = httpx.Timeout(GENERATE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        with (
            self._translated_errors(),
            self._http.stream(
                "POST", path, params={"alt": "sse"}, json=sampling.body(prompt), timeout=timeout
            ) as answer,
        ):
            if answer.is_error:
                answer.read()
                self._raise_for(answer)
            for line in split_newlines(answer.iter_bytes()):
                if line.startswith(b"data:"):
                    event = self._decoded(line.removeprefix(b"data:").decode("utf-8", "replace"))
                    if "error" in event:
                        raise _error_of(event)
                    yield GeneratedAnswer.of(event)

    # requests

    def _pages(self, path: str, field: str, limit: int | None) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        token = ""
        while limit is None or len(items) < limit:
            size = PAGE_SIZE if limit is None else min(PAGE_SIZE, limit - len(items))
            page = self._json("GET", path, params={"pageSize": str(size)} | ({"pageToken": token} if token else {}))
            items += page.get(field, [])
            token = page.get("nextPageToken", "")
            if not token:
                break
        return items[:limit]

    def _json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        timeout_s: float = READ_TIMEOUT_S,
    ) -> dict[str, Any]:
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        with self._translated_errors():
            answer = self._http.request(method, path, params=params, json=body, timeout=timeout)
        self._raise_for(answer)
        return self._decoded(answer.text)

    def _raise_for(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        document = self._decoded(answer.text, status=answer.status_code)
        if "error" not in document:
            raise self._not_kastor(answer.text, answer.status_code)
        raise self._with_key_hint(_error_of(document))

    def _with_key_hint(self, error: KastorError) -> KastorError:
        """The error; if it is about a missing or wrong key, with the way to get a valid one."""
        if isinstance(error, PermissionDenied) and error.message.startswith(UNREGISTERED):
            message = f"The server at {self.url} needs a key, and none was given: set KASTOR_API_KEY or --api-key."
        elif error.reason == INVALID_KEY:
            message = f"The server at {self.url} rejects this key: {error.message} Check KASTOR_API_KEY or --api-key."
        else:
            return error
        return type(error)(
            f"{message} To create one, run on the server's machine: kastor keys create --email you@example.com"
        )

    def _decoded(self, text: str, *, status: int = 200) -> dict[str, Any]:
        try:
            document = json.loads(text)
        except ValueError as error:
            raise self._not_kastor(text, status) from error
        if not isinstance(document, dict):
            raise self._not_kastor(text, status)
        return document

    def _not_kastor(self, text: str, status: int = 200) -> KastorError:
        start = " ".join(text.split())[:80] or "nothing"
        return Internal(f"{self.url} did not answer like a Kastor server (HTTP {status}: {start}). Check --server.")

    def _invalid_address(self) -> KastorError:
        url = shortened(self.url, MAX_SHOWN_CHARS)
        return InvalidArgument(f"{url!r} is not a server address; write it as http://127.0.0.1:8080. Check --server.")

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise Unavailable(
                f"No server answers at {self.url}. Start one with `kastor serve`, or correct --server."
            ) from error
        except httpx.TimeoutException as error:
            raise Unavailable(f"{self.url} did not answer in time. It may be busy: try again.") from error
        except (UnicodeError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:  # the host name is malformed
            raise self._invalid_address() from error
        except httpx.TransportError as error:
            raise Unavailable(f"The connection to {self.url} was lost: {error or type(error).__name__}.") from error


def _preamble(name: str) -> bytes:
    """The part of a multipart upload before the bytes of the file."""
    metadata = json.dumps({"file": {"displayName": name}})
    return (
        f"--{BOUNDARY}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{metadata}\r\n"
        f"--{BOUNDARY}\r\nContent-Type: application/octet-stream\r\n\r\n"
    ).encode()


def _segment(text: str) -> str:
    return quote(text, safe="")


def _resource(name: str) -> str:
    return quote(name, safe="/")


def _error_of(document: Mapping[str, Any]) -> KastorError:
    """An error of the wire as the `KastorError` subclass that has its code."""
    body = document["error"] if isinstance(document["error"], dict) else {"message": str(document["error"])}
    status, message = str(body.get("status", "")), str(body.get("message", "The server gave no reason."))
    by_code = {kind.code: kind for kind in KastorError.__subclasses__()}
    kind = by_code.get(Code[status]) if status in Code.__members__ else None
    reasons = [detail.get("reason", "") for detail in body.get("details", ()) if isinstance(detail, dict)]
    return (kind or Internal)(message, reason=next(filter(None, reasons), ""))

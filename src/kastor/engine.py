"""Composition root of a generation process: one base model, its adapters, HTTP on a unix socket.

`serving.process_engine` in the server process starts one for each base in use, by `python -m kastor.engine --base ID
--socket PATH --parent-fd N`. It ends on SIGTERM and with its parent. If it cannot serve, its last line on stderr says
why.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import structlog
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from kastor.domain.content import Prompt
from kastor.domain.errors import Internal, InvalidArgument, KastorError
from kastor.domain.generation import Chunk, GenerateRequest, ResolvedMedia
from kastor.domain.job import Rendering
from kastor.media.cache import MediaCache
from kastor.models.catalog import BaseModel, load_catalog
from kastor.models.chat.render import RenderedExample, Renderer
from kastor.models.decoder.inputs import text_config
from kastor.models.download import Progress, ensure_local
from kastor.models.load import cast_for_serving, compute_dtype, compute_threads, free_bytes, load_base, stop_token_ids
from kastor.runtime.logging import configure_logs
from kastor.runtime.out_of_memory import is_out_of_memory
from kastor.runtime.parent_death import watch_parent
from kastor.security.file_modes import PRIVATE_UMASK
from kastor.serving import engine_protocol
from kastor.serving.builtin.constrained_decoding import GrammarCompiler
from kastor.serving.builtin.continuous_batching import ContinuousBatcher, EngineLimits
from kastor.serving.builtin.kv_cache import SlotKVCache
from kastor.serving.builtin.multi_lora import AdapterManager
from kastor.serving.builtin.picture_embeddings import PictureEmbedder
from kastor.serving.builtin.scoring import ScoreHandle
from kastor.serving.builtin.sequence import PictureEmbeddings
from kastor.serving.engine import ScoreRequest
from kastor.settings import Settings, load_settings
from kastor.store.blobs.job_files import JobFiles

T = TypeVar("T")
NDJSON = "application/x-ndjson"
CACHE_SHARE = 0.25
"""The share of the memory that is free once the base is loaded which the KV cache may take."""
MEDIA_THREADS = 2
"""Requests whose media are embedded concurrently."""
GRACE_S = 5.0
"""An orphaned process that has not ended by then is killed, with its children."""


@dataclass(frozen=True, slots=True)
class EngineServer:
    """The endpoints; each is a few lines between `serving.engine_protocol` and the batcher."""

    renderers: Callable[[Rendering], Renderer]
    batcher: ContinuousBatcher
    grammars: GrammarCompiler
    stall_timeout_s: float
    embedder: PictureEmbedder | None = None  # None: the base reads text only
    media_pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(MEDIA_THREADS, "media"))

    def app(self) -> Starlette:
        """The HTTP application."""
        return Starlette(
            routes=[
                Route(engine_protocol.READY, self.ready, methods=["GET"]),
                Route(engine_protocol.GENERATE, self.generate, methods=["POST"]),
                Route(engine_protocol.SCORE, self.score, methods=["POST"]),
                Route(engine_protocol.COUNT, self.count, methods=["POST"]),
            ]
        )

    async def ready(self, request: Request) -> Response:
        """204 while the generating thread makes progress; before the base is loaded, nobody listens on the socket."""
        stalled_s = self.batcher.stalled_s()
        if stalled_s <= self.stall_timeout_s:
            return Response(status_code=204)
        structlog.get_logger().error("generating_thread_stalled", seconds=round(stalled_s))
        return Response(status_code=503)

    async def count(self, request: Request) -> Response:
        """The number of tokens of a prompt."""
        try:
            rendered = await run_in_threadpool(self._render, *engine_protocol.decode_prompt(await request.body()))
        except KastorError as error:
            return Response(engine_protocol.encode_error(error), media_type=NDJSON)
        return Response(engine_protocol.encode_count(len(rendered.token_ids)), media_type=NDJSON)

    def _render(self, prompt: Prompt, media: ResolvedMedia, rendering: Rendering) -> RenderedExample:
        layouts = {medium: resolved.planned.view for medium, resolved in media.items()}
        renderer = self.renderers(rendering)
        renderer.check_length(prompt, self.batcher.bounds.max_prompt_tokens)
        return renderer.prompt_with_pictures(prompt, layouts)

    async def generate(self, request: Request) -> Response:
        """An answer, a line for each chunk; it is cancelled when the connection closes."""
        return StreamingResponse(self._answer_lines(await request.body()), media_type=NDJSON)

    async def _answer_lines(self, body: bytes) -> AsyncIterator[bytes]:
        events: asyncio.Queue[Chunk | KastorError] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        handle = None
        try:
            request = engine_protocol.decode_request(body)
            prompt = await run_in_threadpool(self._render, request.prompt, request.shown, request.rendering)
            form = request.sampling.form
            pictures = await self._prompt_embeddings(prompt, request) if prompt.pictures else ()
            handle = self.batcher.submit(
                prompt.token_ids,
                request.sampling,
                request.adapter,
                lambda event: _hand_over(loop, events, event),
                num_candidates=request.num_candidates,
                grammar=None if form is None else await run_in_threadpool(self.grammars.matcher, form),
                pictures=pictures,
                positions=prompt.positions,
            )
            num_open = request.num_candidates
            while num_open:
                event = await events.get()
                yield engine_protocol.encode_event(event)
                if isinstance(event, KastorError):
                    return
                num_open -= event.finish_reason is not None
        except KastorError as error:
            yield engine_protocol.encode_error(error)
        finally:
            if handle is not None:
                handle.cancel()

    async def score(self, request: Request) -> Response:
        """Log-probabilities, in one line; the scoring is cancelled when the connection closes."""
        return StreamingResponse(self._score_lines(await request.body()), media_type=NDJSON)

    async def _score_lines(self, body: bytes) -> AsyncIterator[bytes]:
        outcomes: asyncio.Queue[list[torch.Tensor] | KastorError] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        handle = None
        try:
            request = engine_protocol.decode_score_request(body)
            _check_token_ids(request, text_config(self.batcher.model).vocab_size)
            embeddings = {id(one): await self._embeddings(one, request) for one in request.sequences if one.pictures}
            handle = ScoreHandle(
                request.sequences,
                lambda sequence: embeddings[id(sequence)],
                request.adapter,
                lambda outcome: _hand_over(loop, outcomes, outcome),
            )
            self.batcher.submit_score(handle)
            outcome = await outcomes.get()
            if isinstance(outcome, KastorError):
                raise outcome
            yield engine_protocol.encode_scores([scores_S.tolist() for scores_S in outcome])
        except KastorError as error:
            yield engine_protocol.encode_error(error)
        finally:
            if handle is not None:
                handle.cancel()

    async def _prompt_embeddings(
        self, prompt: RenderedExample, request: GenerateRequest
    ) -> tuple[PictureEmbeddings, ...]:
        """The prompt's pictures, unless it is too long; the batcher goes on with other answers meanwhile."""
        self.batcher.room_for_answer(len(prompt.token_ids), request.sampling)
        return await self._embeddings(prompt, request)

    async def _embeddings(
        self, sequence: RenderedExample, request: GenerateRequest | ScoreRequest
    ) -> tuple[PictureEmbeddings, ...]:
        if self.embedder is None:
            raise InvalidArgument.of("sequences", "this base reads text only; leave pictures out")
        embed = self.embedder.embed
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.media_pool, embed, sequence.pictures, request.shown, request.adapter)


def _hand_over(loop: asyncio.AbstractEventLoop, events: "asyncio.Queue[T]", event: T) -> None:
    loop.call_soon_threadsafe(events.put_nowait, event)


def _check_token_ids(request: ScoreRequest, vocabulary_size: int) -> None:
    for index, sequence in enumerate(request.sequences):
        unknown = next((token for token in sequence.token_ids if not 0 <= token < vocabulary_size), None)
        if unknown is not None:
            raise InvalidArgument.of(
                f"sequences[{index}]", f"{unknown} is no token of this base; use 0 to {vocabulary_size - 1}"
            )


def load_engine_server(settings: Settings, base: BaseModel) -> EngineServer:
    """The server of a base, which is loaded, and downloaded first if it is not on this machine.

    Raises:
        KastorError: the base is missing, broken or too large; one sentence says what to do.

    """
    log = structlog.get_logger()
    folder = ensure_local(base, settings.cache_dir, _StageLog(), accepted=settings.accepted_licences)
    started_at = time.monotonic()
    renderers = lru_cache(lambda rendering: Renderer.open(folder, base.family, rendering=rendering))
    renderer = renderers(Rendering.PUBLISHED)
    model = cast_for_serving(load_base(folder, dtype=compute_dtype(settings.base_dtype)), base.family.vision)
    cache = SlotKVCache.like(model, base.family.vision)
    bounds = EngineLimits(
        max_rows=settings.max_batch_rows,
        max_prompt_tokens=base.input_token_limit,
        max_output_tokens=base.output_token_limit,
        context_tokens=text_config(model).max_position_embeddings,
        max_cache_tokens=int(free_bytes() * CACHE_SHARE) // cache.bytes_per_token,
    )
    adapters = AdapterManager(model, JobFiles(settings.data_dir).verified_adapter, settings.max_resident_adapters)
    log.info("base_loaded", seconds=round(time.monotonic() - started_at, 1), dtype=str(model.dtype), bounds=str(bounds))
    ends = stop_token_ids(model, renderer.closing_id)
    grammars = GrammarCompiler(renderer.tokenizer.to_str(), ends, text_config(model).vocab_size)
    batcher = ContinuousBatcher(model, adapters, renderer.tokenizer, ends, bounds, cache)
    stall_timeout_s = settings.engine_stall_timeout_s
    return EngineServer(renderers, batcher, grammars, stall_timeout_s, _picture_embedder(settings, base, folder, model))


def _picture_embedder(
    settings: Settings,
    base: BaseModel,
    folder: Path,
    model: Any,  # noqa: ANN401  # transformers is untyped
) -> PictureEmbedder | None:
    if base.family.vision is None:
        return None
    return PictureEmbedder(
        model,
        base.family.vision,
        folder,
        MediaCache(settings.cache_dir / "features", max_bytes=settings.feature_cache_bytes),
        MediaCache(settings.cache_dir / "frames", max_bytes=settings.frame_cache_bytes),
        JobFiles(settings.data_dir).verified_adapter,
        num_threads=settings.num_threads or compute_threads(),
    )


class _StageLog:
    """Logs each stage of a download once."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self._stage = progress.stage
            structlog.get_logger().info("fetching_base", stage=progress.stage)


def serve(settings: Settings, base_id: str, socket: Path) -> None:
    """Load the base, then answer on the socket until SIGTERM."""
    torch.set_num_threads(settings.num_threads or compute_threads())
    server = load_engine_server(settings, load_catalog(settings.catalog_file).base(base_id))
    thread = threading.Thread(target=_generate_until_closed, args=(server.batcher,), name="generating", daemon=True)
    thread.start()
    config = uvicorn.Config(
        server.app(),
        uds=str(socket),
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,  # clients still connected learn of the end from the closed connection
    )
    try:
        uvicorn.Server(config).run()
    finally:
        server.batcher.close()
        server.media_pool.shutdown(wait=False, cancel_futures=True)
        thread.join(GRACE_S)


def _generate_until_closed(batcher: ContinuousBatcher) -> None:
    try:
        batcher.run()
    except BaseException as error:  # noqa: BLE001 - the process is useless without this thread
        structlog.get_logger().error("generating_thread_died", exc_info=error)
        _print_reason(f"The generating thread died of {type(error).__name__}: {error}")
        os._exit(1)  # the server starts another process for the next request


def _print_reason(sentence: str) -> None:
    sys.stderr.write(sentence.strip() + "\n")
    sys.stderr.flush()


def _reason(error: Exception) -> str:
    if isinstance(error, KastorError) and not isinstance(error, Internal):
        return error.message
    structlog.get_logger().error("engine_failed", exc_info=error)
    if is_out_of_memory(error):
        return "The base model does not fit in memory: close other programs, or use a smaller base."
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"The generation process failed with {type(error).__name__}: {first}"


def _end_with_parent() -> None:
    """Ask the main thread to end; if it does not, kill the process group, with a converter or a download in it."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the arguments and settings, then serve."""
    parser = argparse.ArgumentParser(prog="kastor.engine", description=__doc__)
    parser.add_argument("--base", required=True, help="id of the base model in the catalog")
    parser.add_argument("--socket", required=True, type=Path, help="unix socket to listen on")
    parser.add_argument("--parent-fd", type=int, help="ends this process when the pipe's other end closes")
    options = parser.parse_args(arguments)
    configure_logs("json")
    structlog.contextvars.bind_contextvars(base=options.base)
    os.umask(PRIVATE_UMASK)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if options.parent_fd is not None:
        watch_parent(options.parent_fd, _end_with_parent)
    try:
        serve(load_settings(), options.base, options.socket)
    except Exception as error:  # noqa: BLE001 - the outermost loop of the process: the server learns of any error
        _print_reason(_reason(error))
        sys.exit(1)
    finally:
        with contextlib.suppress(OSError):
            options.socket.unlink(missing_ok=True)
    sys.exit(0)


if __name__ == "__main__":
    main()

"""Generation on the Gemini API's wire: generateContent, streamGenerateContent, countTokens, on tuned and base models.

Mirrors gemini-api.md §2.9, §3.7. Requests are read in `generate_ask`.
"""

import secrets
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby

import orjson
from starlette.routing import Route

from kastor.api.google.content import (
    CandidateOut,
    ContentOut,
    CountIn,
    CountOut,
    FunctionCallOut,
    GenerateIn,
    GenerateOut,
    LogprobsOut,
    ModalityCount,
    PartOut,
    TokenOut,
    TopOut,
    UsageOut,
)
from kastor.api.google.generate_request import generation_request, parse_prompt, validate_request
from kastor.api.google.methods import MethodRoutes
from kastor.api.google.model_names import parse_model_name
from kastor.api.http.endpoint import ApiRequest, Reply, StreamingReply
from kastor.api.http.observability import Metrics
from kastor.api.http.protojson import parse_message
from kastor.domain.errors import InvalidArgument, Unavailable
from kastor.domain.generation import Chunk, TokenLogprob, TokenStep
from kastor.domain.media import MediaKind
from kastor.domain.request_limits import Limits
from kastor.services.generation import GenerationService, GenerationStream

MODALITY = {MediaKind.IMAGE: "IMAGE", MediaKind.VIDEO: "VIDEO", MediaKind.PDF: "DOCUMENT"}


class GenerateRoutes:
    """Handlers of the three methods."""

    def __init__(self, service: GenerationService, metrics: Metrics, limits: Limits) -> None:
        self._limits = limits
        self._service = service
        self._metrics = metrics

    def routes(self, methods: MethodRoutes) -> Sequence[Route]:
        """The routes of all of them, for both kinds of models."""
        routes: list[Route] = []
        for kind in ("tunedModels", "models"):
            routes += [
                methods.generating(f"{kind}.generateContent", self.generate, takes=GenerateIn, gives=GenerateOut),
                methods.generating(f"{kind}.streamGenerateContent", self.stream, takes=GenerateIn, gives=GenerateOut),
                methods.generating(f"{kind}.countTokens", self.count, takes=CountIn, gives=CountOut),
            ]
        return routes

    def generate(self, call: ApiRequest) -> Reply:
        """The method generateContent."""
        answer, told = self._answer(call), UsageTotals()
        pieces: dict[int, list[Chunk]] = {}
        with closing(self._counted(answer, told)) as chunks:
            for chunk in chunks:
                pieces.setdefault(chunk.index, []).append(chunk)
                if chunk.finish_reason is None and call.stopped():
                    raise Unavailable("The server is shutting down. Try again.")
        if not pieces:
            raise Unavailable("The engine gave no answer. Try again.")
        candidates = [_candidate(pieces[index], told) for index in sorted(pieces)]
        return _response(answer, candidates, told, _response_id()).json_value()

    def stream(self, call: ApiRequest) -> Reply:
        """The method streamGenerateContent."""
        messages = self._messages(self._answer(call))
        return StreamingReply(next(messages, None), messages)  # what goes wrong by now is an ordinary error

    def count(self, call: ApiRequest) -> Reply:
        """The method countTokens."""
        body, name = parse_message(CountIn, call.body), _model_name(call)
        inner = body.generate_content_request
        if (inner is None) == (not body.contents):
            raise InvalidArgument.of("contents", "set either contents or generateContentRequest")
        whole = inner if inner is not None else GenerateIn(contents=body.contents)
        validate_request(whole, name)
        counted = self._service.count_tokens(parse_model_name(name), parse_prompt(whole), call.principal, self._limits)
        details = _by_modality(counted.total, counted.media)
        return CountOut(total_tokens=counted.total, prompt_tokens_details=details).json_value()

    def _answer(self, call: ApiRequest) -> GenerationStream:
        name = _model_name(call)
        params = generation_request(parse_message(GenerateIn, call.body), name)
        return self._service.stream(parse_model_name(name), params, call.principal, self._limits)

    def _counted(self, answer: GenerationStream, told: "UsageTotals") -> Generator[Chunk, None, None]:
        with closing(answer.chunks) as chunks:
            try:
                for chunk in chunks:
                    told.add(chunk)
                    yield chunk
            finally:
                self._metrics.generated(told.prompt_tokens, told.num_tokens)

    def _messages(self, answer: GenerationStream) -> Generator[dict[str, object], None, None]:
        response_id, told = _response_id(), UsageTotals()
        with closing(self._counted(answer, told)) as chunks:
            for chunk in chunks:
                yield _response(answer, [_candidate([chunk], told)], told, response_id).json_value()


@dataclass(slots=True)
class UsageTotals:
    """What is known so far of an answer's candidates."""

    prompt_tokens: int = 0
    output_tokens: dict[int, int] = field(default_factory=dict)  # of each candidate
    steps: dict[int, list[float]] = field(default_factory=dict)  # its tokens' log-probabilities

    def add(self, chunk: Chunk) -> None:
        """Count a chunk in."""
        self.prompt_tokens = chunk.prompt_tokens
        self.output_tokens[chunk.index] = chunk.output_tokens
        self.steps.setdefault(chunk.index, []).extend(step.chosen.logprob for step in chunk.steps)

    @property
    def num_tokens(self) -> int:
        """Output tokens of all candidates."""
        return sum(self.output_tokens.values())


def _response_id() -> str:
    return secrets.token_urlsafe(12)


def _response(
    answer: GenerationStream, candidates: list[CandidateOut], told: UsageTotals, response_id: str
) -> GenerateOut:
    """The message for a piece of one candidate, or for all of all."""
    output = told.num_tokens
    return GenerateOut(
        candidates=candidates,
        usage_metadata=UsageOut(
            prompt_token_count=told.prompt_tokens,
            candidates_token_count=output or None,
            total_token_count=told.prompt_tokens + output,
            prompt_tokens_details=_by_modality(told.prompt_tokens, answer.media_tokens),
            candidates_tokens_details=[ModalityCount(token_count=output)] if output else None,
        ),
        model_version=answer.base.id,
        response_id=response_id,
    )


def _by_modality(total: int, media: Mapping[MediaKind, int]) -> list[ModalityCount]:
    """How a prompt's tokens are shared out; moments of videos, written as text, count as text."""
    counted = [ModalityCount(modality=MODALITY[kind], token_count=media[kind]) for kind in MODALITY if kind in media]
    return [ModalityCount(token_count=total - sum(media.values())), *counted]


def _candidate(chunks: Sequence[Chunk], told: UsageTotals) -> CandidateOut:
    """The message for successive chunks of one candidate; totals are in the last."""
    last = chunks[-1]
    reason, known = last.finish_reason, told.steps.get(last.index)
    return CandidateOut(
        content=ContentOut(parts=_parts(chunks)),
        finish_reason=None if reason is None else reason.value,
        index=last.index,
        token_count=(last.output_tokens or None) if reason else None,
        avg_logprobs=sum(known) / len(known) if reason and known else None,
        logprobs_result=_logprobs([step for chunk in chunks for step in chunk.steps]),
    )


def _parts(chunks: Sequence[Chunk]) -> list[PartOut]:
    """Successive texts are one part, each call is one."""
    parts: list[PartOut] = []
    for call, group in groupby(chunks, key=lambda chunk: chunk.call):
        if call is None:
            parts.append(PartOut(text="".join(chunk.text for chunk in group)))
        else:
            made = PartOut(function_call=FunctionCallOut(name=call.name, args=orjson.loads(call.arguments)))
            parts += [made for _ in group]
    return [part for part in parts if part.text != ""] or [PartOut(text="")]


def _logprobs(steps: Sequence[TokenStep]) -> LogprobsOut | None:
    if not steps:
        return None
    has_top = any(step.top for step in steps)
    return LogprobsOut(
        log_probability_sum=sum(step.chosen.logprob for step in steps),
        top_candidates=[TopOut(candidates=[_token(one) for one in step.top]) for step in steps] if has_top else None,
        chosen_candidates=[_token(step.chosen) for step in steps],
    )


def _token(one: TokenLogprob) -> TokenOut:
    return TokenOut(token=one.text, token_id=one.token_id, log_probability=one.logprob)


def _model_name(call: ApiRequest) -> str:
    """The model's resource name: the variable of the path is called after its kind."""
    ((kind, model_id),) = call.path.items()
    return f"{kind}/{model_id}"

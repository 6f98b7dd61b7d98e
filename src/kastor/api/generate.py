"""Generation on the Gemini API's wire: generateContent, streamGenerateContent, countTokens, on tuned and base models.

Mirrors gemini-api.md §2.9, §3.7. What this server cannot honour is refused by name.
"""

import secrets
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Annotated

from starlette.routing import Route

from kastor.api.http import Call, Endpoints, Reply, Stream
from kastor.api.observe import Metrics
from kastor.api.wire import Float32, Int32, Wire, enum_field, message
from kastor.domain.content import Content, Prompt, Role, Text
from kastor.domain.errors import FieldViolation, InvalidArgument, Unavailable
from kastor.domain.generation import Chunk
from kastor.jobs.asks import Ask
from kastor.jobs.generation import Answer, GenerationService

HARM = "HARM_CATEGORY_"
HARM_CATEGORIES = tuple(
    HARM + name
    for name in (
        *("UNSPECIFIED", "DEROGATORY", "TOXICITY", "VIOLENCE", "SEXUAL", "MEDICAL", "DANGEROUS"),
        *("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT", "CIVIC_INTEGRITY"),
    )
)
THRESHOLDS = (
    *("HARM_BLOCK_THRESHOLD_UNSPECIFIED", "BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH"),
    *("BLOCK_NONE", "OFF"),
)
ROLES = {"": Role.USER, "user": Role.USER, "model": Role.MODEL}
UNOFFERED = "is not offered by this server; leave it out"
Unoffered = object | None


class PartIn(Wire):
    """Part: only text so far."""

    text: str | None = None
    inline_data: Unoffered = None
    file_data: Unoffered = None
    function_call: Unoffered = None
    function_response: Unoffered = None
    executable_code: Unoffered = None
    code_execution_result: Unoffered = None
    video_metadata: Unoffered = None
    media_resolution: Unoffered = None
    thought: Unoffered = None
    thought_signature: Unoffered = None


class ContentIn(Wire):
    """Content."""

    role: str | None = None
    parts: list[PartIn] | None = None


class SafetySettingIn(Wire):
    """SafetySetting: checked, and without effect, as nothing is filtered."""

    category: Annotated[str, enum_field("HarmCategory", HARM_CATEGORIES)] | None = None
    threshold: Annotated[str, enum_field("HarmBlockThreshold", THRESHOLDS)] | None = None


class GenerationConfigIn(Wire):
    """GenerationConfig."""

    candidate_count: Int32 | None = None
    stop_sequences: list[str] | None = None
    max_output_tokens: Int32 | None = None
    temperature: Float32 | None = None
    top_p: Float32 | None = None
    top_k: Int32 | None = None
    seed: Int32 | None = None
    presence_penalty: Float32 | None = None
    frequency_penalty: Float32 | None = None
    response_mime_type: str | None = None
    response_modalities: list[str | int] | None = None
    response_schema: Unoffered = None
    response_json_schema: Unoffered = None
    response_logprobs: Unoffered = None
    logprobs: Unoffered = None
    thinking_config: Unoffered = None
    speech_config: Unoffered = None
    media_resolution: Unoffered = None
    image_config: Unoffered = None
    enable_enhanced_civic_answers: Unoffered = None


class GenerateIn(Wire):
    """GenerateContentRequest."""

    model: str | None = None
    contents: list[ContentIn] | None = None
    system_instruction: ContentIn | None = None
    generation_config: GenerationConfigIn | None = None
    safety_settings: list[SafetySettingIn] | None = None
    tools: Unoffered = None
    tool_config: Unoffered = None
    cached_content: Unoffered = None


class CountIn(Wire):
    """CountTokensRequest: contents, or a whole request."""

    model: str | None = None
    contents: list[ContentIn] | None = None
    generate_content_request: GenerateIn | None = None


class TextOut(Wire):
    """Part. An empty text is written, too: the legacy SDK cannot read a candidate without parts."""

    text: str


class ContentOut(Wire):
    """Content."""

    parts: list[TextOut]
    role: str = Role.MODEL.value


class CandidateOut(Wire):
    """Candidate. Its index is 0, which this wire leaves out."""

    content: ContentOut
    finish_reason: str | None


class ModalityCount(Wire):
    """ModalityTokenCount."""

    modality: str = "TEXT"
    token_count: int


class UsageOut(Wire):
    """UsageMetadata."""

    prompt_token_count: int
    candidates_token_count: int | None
    total_token_count: int
    prompt_tokens_details: list[ModalityCount]
    candidates_tokens_details: list[ModalityCount] | None


class GenerateOut(Wire):
    """GenerateContentResponse. `model_version` is the base that really served."""

    candidates: list[CandidateOut]
    usage_metadata: UsageOut
    model_version: str
    response_id: str


class CountOut(Wire):
    """CountTokensResponse."""

    total_tokens: int
    prompt_tokens_details: list[ModalityCount]


class GenerateRoutes:
    """Handlers of the three methods."""

    def __init__(self, service: GenerationService, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics

    def routes(self, endpoints: Endpoints, version: str) -> Sequence[Route]:
        """All of them under one version, for both kinds of models."""
        made: list[Route] = []
        for kind in ("tunedModels", "models"):
            model = f"{version}/{kind}/{{{kind}}}"
            made += [
                endpoints.generating(f"{model}:generateContent", self.generate),
                endpoints.generating(f"{model}:streamGenerateContent", self.stream, sse=True),
                endpoints.generating(f"{model}:countTokens", self.count),
            ]
        return made

    def generate(self, call: Call) -> Reply:
        """The method generateContent."""
        answer = self._answer(call)
        texts, last = [], None
        with closing(self._counted(answer)) as chunks:
            for chunk in chunks:
                texts.append(chunk.text)
                last = chunk
                if chunk.finish_reason is None and call.stopped():
                    raise Unavailable("The server is shutting down. Try again.")
        if last is None:
            raise Unavailable("The engine gave no answer. Try again.")
        return _response(answer, last, "".join(texts), _response_id()).json_value()

    def stream(self, call: Call) -> Reply:
        """The method streamGenerateContent."""
        messages = self._messages(self._answer(call))
        return Stream(next(messages, None), messages)  # what goes wrong by now is an ordinary error

    def count(self, call: Call) -> Reply:
        """The method countTokens."""
        body, name = message(CountIn, call.body), _model_name(call)
        inner = body.generate_content_request
        if (inner is None) == (not body.contents):
            raise InvalidArgument.of("contents", "set either contents or generateContentRequest")
        whole = inner if inner is not None else GenerateIn(contents=body.contents)
        _check_request(whole, name)
        tokens = self._service.count_tokens(name, _prompt(whole), call.principal)
        return CountOut(total_tokens=tokens, prompt_tokens_details=[ModalityCount(token_count=tokens)]).json_value()

    def _answer(self, call: Call) -> Answer:
        body, name = message(GenerateIn, call.body), _model_name(call)
        _check_request(body, name)
        return self._service.stream(name, _ask(body), call.principal)

    def _counted(self, answer: Answer) -> Generator[Chunk, None, None]:
        prompt_tokens = output_tokens = 0
        with closing(answer.chunks) as chunks:
            try:
                for chunk in chunks:
                    prompt_tokens, output_tokens = chunk.prompt_tokens, chunk.output_tokens
                    yield chunk
            finally:
                self._metrics.generated(prompt_tokens, output_tokens)

    def _messages(self, answer: Answer) -> Generator[dict[str, object], None, None]:
        response_id = _response_id()
        with closing(self._counted(answer)) as chunks:
            for chunk in chunks:
                yield _response(answer, chunk, chunk.text, response_id).json_value()


def _response_id() -> str:
    return secrets.token_urlsafe(12)


def _response(answer: Answer, chunk: Chunk, text: str, response_id: str) -> GenerateOut:
    """The message for a piece of an answer, or for all of it."""
    reason = chunk.finish_reason.value if chunk.finish_reason else None
    output = chunk.output_tokens
    return GenerateOut(
        candidates=[CandidateOut(content=ContentOut(parts=[TextOut(text=text)]), finish_reason=reason)],
        usage_metadata=UsageOut(
            prompt_token_count=chunk.prompt_tokens,
            candidates_token_count=output or None,
            total_token_count=chunk.prompt_tokens + output,
            prompt_tokens_details=[ModalityCount(token_count=chunk.prompt_tokens)],
            candidates_tokens_details=[ModalityCount(token_count=output)] if output else None,
        ),
        model_version=answer.base.id,
        response_id=response_id,
    )


def _model_name(call: Call) -> str:
    """The model's resource name: the variable of the path is called after its kind."""
    ((kind, model_id),) = call.path.items()
    return f"{kind}/{model_id}"


def _check_request(body: GenerateIn, name: str) -> None:
    """Nothing, if the request asks only for what is offered.

    Raises:
        InvalidArgument: names each field that is not.

    """
    wrong = _given(body, "", ("tools", "tool_config", "cached_content"))
    if body.model and body.model.removeprefix("models/") != name.removeprefix("models/"):
        wrong.append(FieldViolation("model", f"{body.model!r} is not the model of the path, {name}"))
    if body.generation_config is not None:
        wrong += _config_violations(body.generation_config, name)
    if wrong:
        raise InvalidArgument.of_all(tuple(wrong))


def _config_violations(config: GenerationConfigIn, name: str) -> list[FieldViolation]:
    at = "generationConfig."
    unoffered = tuple(n for n, field in GenerationConfigIn.model_fields.items() if field.annotation == Unoffered)
    wrong = _given(config, at, unoffered + ("presence_penalty", "frequency_penalty"))
    if config.candidate_count not in (None, 1):
        wrong.append(FieldViolation(at + "candidateCount", f"{config.candidate_count}; only 1 is offered"))
    if config.response_mime_type not in (None, "", "text/plain"):
        said = f"{config.response_mime_type!r}: Json mode is not enabled for {name}; use text/plain"
        wrong.append(FieldViolation(at + "responseMimeType", said))
    if any(modality not in ("TEXT", 1) for modality in config.response_modalities or ()):
        wrong.append(FieldViolation(at + "responseModalities", "only TEXT is offered"))
    return wrong


def _given(body: Wire, at: str, names: Sequence[str]) -> list[FieldViolation]:
    """A violation for each of the unoffered fields that says something; empty values say nothing."""
    fields = type(body).model_fields
    return [FieldViolation(f"{at}{fields[name].alias}", UNOFFERED) for name in names if getattr(body, name)]


def _ask(body: GenerateIn) -> Ask:
    config = body.generation_config or GenerationConfigIn()
    prompt = _prompt(body)
    if prompt.contents[-1].role is not Role.USER:
        raise InvalidArgument.of("contents", "the last turn is the model's; it must be the user's")
    return Ask(
        prompt=prompt,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        stop_sequences=tuple(config.stop_sequences or ()),
        max_output_tokens=config.max_output_tokens,
        seed=config.seed,
    )


def _prompt(body: GenerateIn) -> Prompt:
    if not body.contents:
        raise InvalidArgument.of("contents", "contents is not specified")
    contents = tuple(_content(content, f"contents[{i}]") for i, content in enumerate(body.contents))
    system = body.system_instruction
    if system is None or not system.parts:
        return Prompt(contents)
    return Prompt(contents, "".join(part.text for part in _parts(system, "systemInstruction")))


def _content(content: ContentIn, at: str) -> Content:
    role = ROLES.get(content.role or "")
    if role is None:
        raise InvalidArgument.of(f"{at}.role", f"{content.role!r}: please use a valid role: user, model")
    return Content(role, _parts(content, at))


def _parts(content: ContentIn, at: str) -> tuple[Text, ...]:
    if not content.parts:
        raise InvalidArgument.of(f"{at}.parts", "is empty; it must hold at least one part")
    texts = []
    for i, part in enumerate(content.parts):
        unoffered = _given(part, f"{at}.parts[{i}].", tuple(PartIn.model_fields.keys() - {"text"}))
        if unoffered:
            raise InvalidArgument.of_all(tuple(unoffered))
        if part.text is None:
            raise InvalidArgument.of(f"{at}.parts[{i}].data", "required oneof field 'data' is not set; set text")
        texts.append(Text(part.text))
    return tuple(texts)

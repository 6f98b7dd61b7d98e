"""Messages of generation on the Gemini API's wire (gemini-api.md §2.9). What they mean is `generate_ask`'s business.

A field of type `Unoffered` is known to the wire and honoured by nobody here: whatever is said in it is refused by name.
"""

from typing import Annotated

from pydantic import StrictBool

from kastor.api.http.json_bounds import JsonBounds
from kastor.api.http.protojson import Float32, Int32, Items, ProtoModel, enum_field
from kastor.domain.content import Resolution, Role

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
RESOLUTIONS = tuple("MEDIA_RESOLUTION_" + name for name in ("UNSPECIFIED", *Resolution))
CALLING_MODES = ("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED")
"""Each at its number."""
Unoffered = object | None
PROMPT_BOUNDS = JsonBounds(max_objects=50_000, max_values=400_000)
"""No context holds more: each object is a token at least, and the parts of a prompt are some hundred bytes each."""


class BlobIn(ProtoModel):
    """Blob. The name is for people."""

    mime_type: str | None = None
    data: str | None = None
    display_name: str | None = None


class FileDataIn(ProtoModel):
    """FileData. The name is for people."""

    mime_type: str | None = None
    file_uri: str | None = None
    display_name: str | None = None


class VideoMetadataIn(ProtoModel):
    """VideoMetadata; offsets are durations."""

    start_offset: object | None = None
    end_offset: object | None = None
    fps: Float32 | None = None


class MediaResolutionIn(ProtoModel):
    """MediaResolution of a part."""

    level: Annotated[str, enum_field("MediaResolution", RESOLUTIONS)] | None = None


class FunctionCallIn(ProtoModel):
    """FunctionCall. Responses are told apart by name and order; the id says nothing more."""

    name: str | None = None
    args: dict[str, object] | None = None
    id: str | None = None


class FunctionResponseIn(ProtoModel):
    """FunctionResponse."""

    name: str | None = None
    response: dict[str, object] | None = None
    id: str | None = None
    parts: Unoffered = None
    will_continue: Unoffered = None
    scheduling: Unoffered = None


class PartIn(ProtoModel):
    """Part: text, a medium with what is to be seen of it, or a function's call or response."""

    text: str | None = None
    inline_data: BlobIn | None = None
    file_data: FileDataIn | None = None
    function_call: FunctionCallIn | None = None
    function_response: FunctionResponseIn | None = None
    executable_code: Unoffered = None
    code_execution_result: Unoffered = None
    video_metadata: VideoMetadataIn | None = None
    media_resolution: MediaResolutionIn | None = None
    thought: Unoffered = None
    thought_signature: Unoffered = None
    part_metadata: Unoffered = None


class ContentIn(ProtoModel):
    """Content."""

    role: str | None = None
    parts: Items[PartIn] | None = None


class SafetySettingIn(ProtoModel):
    """SafetySetting: checked, and without effect, as nothing is filtered."""

    category: Annotated[str, enum_field("HarmCategory", HARM_CATEGORIES)] | None = None
    threshold: Annotated[str, enum_field("HarmBlockThreshold", THRESHOLDS)] | None = None


class GenerationConfigIn(ProtoModel):
    """GenerationConfig."""

    candidate_count: Int32 | None = None
    stop_sequences: Items[str] | None = None
    max_output_tokens: Int32 | None = None
    temperature: Float32 | None = None
    top_p: Float32 | None = None
    top_k: Int32 | None = None
    seed: Int32 | None = None
    presence_penalty: Float32 | None = None
    frequency_penalty: Float32 | None = None
    response_mime_type: str | None = None
    response_schema: dict[str, object] | None = None
    response_json_schema: dict[str, object] | None = None
    response_json_schema_ordered: Unoffered = None
    response_logprobs: StrictBool | None = None
    logprobs: Int32 | None = None
    response_modalities: Items[str | int] | None = None
    thinking_config: dict[str, object] | None = None
    media_resolution: Annotated[str, enum_field("MediaResolution", RESOLUTIONS)] | None = None
    speech_config: Unoffered = None
    image_config: Unoffered = None
    enable_enhanced_civic_answers: Unoffered = None


class FunctionDeclarationIn(ProtoModel):
    """FunctionDeclaration: parameters in Google's spelling of a schema, or as JSON Schema."""

    name: str | None = None
    description: str | None = None
    parameters: dict[str, object] | None = None
    parameters_json_schema: dict[str, object] | None = None
    response: dict[str, object] | None = None
    response_json_schema: dict[str, object] | None = None
    behavior: Unoffered = None


class ToolIn(ProtoModel):
    """Tool."""

    function_declarations: Items[FunctionDeclarationIn] | None = None
    google_search: Unoffered = None
    google_search_retrieval: Unoffered = None
    code_execution: Unoffered = None
    url_context: Unoffered = None
    computer_use: Unoffered = None
    google_maps: Unoffered = None
    file_search: Unoffered = None
    retrieval: Unoffered = None


class FunctionCallingConfigIn(ProtoModel):
    """FunctionCallingConfig."""

    mode: Annotated[str, enum_field("Mode", CALLING_MODES)] | None = None
    allowed_function_names: Items[str] | None = None
    stream_function_call_arguments: Unoffered = None


class ToolConfigIn(ProtoModel):
    """ToolConfig."""

    function_calling_config: FunctionCallingConfigIn | None = None
    retrieval_config: Unoffered = None


class GenerateIn(ProtoModel):
    """GenerateContentRequest."""

    bounds = PROMPT_BOUNDS

    model: str | None = None
    contents: Items[ContentIn] | None = None
    system_instruction: ContentIn | None = None
    generation_config: GenerationConfigIn | None = None
    safety_settings: Items[SafetySettingIn] | None = None
    tools: Items[ToolIn] | None = None
    tool_config: ToolConfigIn | None = None
    cached_content: Unoffered = None


class CountIn(ProtoModel):
    """CountTokensRequest: contents, or a whole request."""

    bounds = PROMPT_BOUNDS

    model: str | None = None
    contents: Items[ContentIn] | None = None
    generate_content_request: GenerateIn | None = None


class FunctionCallOut(ProtoModel):
    """FunctionCall."""

    name: str
    args: dict[str, object]


class PartOut(ProtoModel):
    """Part: text or a call. An empty text is written, too: the legacy SDK cannot read a candidate without parts."""

    text: str | None = None
    function_call: FunctionCallOut | None = None


class ContentOut(ProtoModel):
    """Content."""

    parts: list[PartOut]
    role: str = Role.MODEL.value


class TokenOut(ProtoModel):
    """LogprobsResult.Candidate."""

    token: str
    token_id: int
    log_probability: Float32


class TopOut(ProtoModel):
    """LogprobsResult.TopCandidates: of one step, likeliest first."""

    candidates: list[TokenOut]


class LogprobsOut(ProtoModel):
    """LogprobsResult: of the tokens of this message. The token that ends an answer is not among them."""

    log_probability_sum: Float32
    top_candidates: list[TopOut] | None
    chosen_candidates: list[TokenOut]


class CandidateOut(ProtoModel):
    """Candidate. There are no safety ratings, for nothing is rated."""

    content: ContentOut
    finish_reason: str | None
    index: int
    token_count: int | None = None
    avg_logprobs: float | None = None
    logprobs_result: LogprobsOut | None = None


class ModalityCount(ProtoModel):
    """ModalityTokenCount."""

    modality: str = "TEXT"
    token_count: int


class UsageOut(ProtoModel):
    """UsageMetadata."""

    prompt_token_count: int
    candidates_token_count: int | None
    total_token_count: int
    prompt_tokens_details: list[ModalityCount]
    candidates_tokens_details: list[ModalityCount] | None


class GenerateOut(ProtoModel):
    """GenerateContentResponse. `model_version` is the base that really served."""

    candidates: list[CandidateOut]
    usage_metadata: UsageOut
    model_version: str
    response_id: str


class CountOut(ProtoModel):
    """CountTokensResponse."""

    total_tokens: int
    prompt_tokens_details: list[ModalityCount]

"""The core's names of fields in requests for generation -> paths in a GenerateContentRequest, for both dialects."""

from collections.abc import Mapping
from types import MappingProxyType

GENERATION_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "system": "systemInstruction",
        "must_call": "toolConfig.functionCallingConfig",
        "resolution": "generationConfig.mediaResolution",
        "response_format": "generationConfig.responseMimeType",
        "num_candidates": "generationConfig.candidateCount",
        "sampling.temperature": "generationConfig.temperature",
        "sampling.top_p": "generationConfig.topP",
        "sampling.top_k": "generationConfig.topK",
        "sampling.stop_sequences": "generationConfig.stopSequences",
        "sampling.max_output_tokens": "generationConfig.maxOutputTokens",
        "sampling.presence_penalty": "generationConfig.presencePenalty",
        "sampling.frequency_penalty": "generationConfig.frequencyPenalty",
        "sampling.top_logprobs": "generationConfig.logprobs",
    }
)

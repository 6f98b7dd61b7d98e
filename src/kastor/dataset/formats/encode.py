"""Encodes an example as one JSON line in Vertex's format, as jobs store it; `parse.decode_example` reads it back."""

import base64

import orjson

from kastor.dataset.formats.parse import RESOLUTION_PREFIX
from kastor.domain.content import Example, FunctionCall, FunctionResponse, Media, Part, Text


def encode_example(example: Example) -> bytes:
    """One line in Vertex's format, without its newline."""
    document: dict[str, object] = {
        "contents": [
            {"role": content.role.value, "parts": [_part_object(part) for part in content.parts]}
            | ({} if content.weight else {"weight": 0})
            for content in example.contents
        ]
    }
    if example.system is not None:
        document["systemInstruction"] = {"parts": [_part_object(part) for part in example.system]}
    if example.tools:
        document["tools"] = orjson.Fragment(example.tools)
    if example.resolution is not None:
        document["generationConfig"] = {"mediaResolution": RESOLUTION_PREFIX + example.resolution}
    return orjson.dumps(document)


def _part_object(part: Part) -> dict[str, object]:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, FunctionCall):
        return {"functionCall": {"name": part.name, "args": orjson.Fragment(part.arguments)}}
    if isinstance(part, FunctionResponse):
        return {"functionResponse": {"name": part.name, "response": orjson.Fragment(part.response)}}
    return _media_object(part)


def _media_object(media: Media) -> dict[str, object]:
    if media.uri:
        encoded: dict[str, object] = {"fileData": {"mimeType": media.mime_type, "fileUri": media.uri}}
    else:
        data = base64.b64encode(media.data).decode("ascii")
        encoded = {"inlineData": {"mimeType": media.mime_type, "data": data}}
    segment: dict[str, object] = {
        name: f"{value:.9f}".rstrip("0").rstrip(".") + "s"
        for name, value in (("startOffset", media.start_s), ("endOffset", media.end_s))
        if value is not None
    }
    if media.fps is not None:
        segment["fps"] = media.fps
    if segment:
        encoded["videoMetadata"] = segment
    if media.resolution is not None:
        encoded["mediaResolution"] = {"level": RESOLUTION_PREFIX + media.resolution}
    return encoded

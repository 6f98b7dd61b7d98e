"""All validation rules by name, with the outcome of a row that violates one, and why. Source of the rules reference.

A fault in a medium itself drops the row: training uses the others, unless too many are dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

REJECTED, DROPPED, KEPT = "rejected", "dropped", "kept"


@dataclass(frozen=True, slots=True)
class Rule:
    """The meaning of one rule."""

    outcome: str
    meaning: str
    limit: str = ""  # the profile's limit that the rule enforces, which an operator may raise


_ROWS = {
    "not_json": Rule(REJECTED, "The line is not JSON, even if trailing commas and comments are accepted."),
    "line_too_long": Rule(REJECTED, "The line is longer than 64 MiB after decompression."),
    "not_csv": Rule(REJECTED, "A quoted field is not closed properly; nothing after it is read."),
    "csv_fields": Rule(REJECTED, "The row has more or fewer fields than the header."),
    "shape": Rule(REJECTED, "The row has none of the supported formats."),
    "ambiguous": Rule(REJECTED, "The row is ambiguous: several inputs, several outputs, or two examples in one."),
    "duplicate_key": Rule(REJECTED, "A key occurs twice in one object, or a field in two spellings."),
    "preference_row": Rule(
        REJECTED, "The row is for preference tuning, which is not supported; as first row, it stands for the file."
    ),
    "text_alone": Rule(
        REJECTED, "The row is one text without prompt and answer; as first row, it stands for the file."
    ),
    "message_field": Rule(REJECTED, "A message has a refusal or audio beside its content."),
    "media_beside": Rule(REJECTED, "Media are beside the messages, not in them."),
    "type": Rule(REJECTED, "A field has the wrong type."),
    "role": Rule(REJECTED, "A turn's role is unknown, or a system message comes after the first turn."),
    "first_turn": Rule(REJECTED, "There is no turn before the model's."),
    "last_turn": Rule(REJECTED, "The last turn is not the model's: there is nothing to learn."),
    "turn_order": Rule(REJECTED, "Two consecutive turns have the same role."),
    "turn_weight": Rule(REJECTED, "A weight is neither 0 nor 1, or is 1 on a turn that is not the model's."),
    "part_kind": Rule(REJECTED, "A part holds none or several kinds of content, or an unsupported kind."),
    "media_address": Rule(REJECTED, "fileUri is empty."),
    "base64": Rule(REJECTED, "inlineData is empty or not base64."),
    "mime_type": Rule(REJECTED, "Training does not support the declared type."),
    "duration": Rule(REJECTED, 'An offset is not written as seconds, such as "5s".'),
    "segment": Rule(REJECTED, "endOffset is not after startOffset."),
    "fps": Rule(REJECTED, "fps is not above 0 and at most 24."),
    "media_resolution": Rule(REJECTED, "The resolution is unknown, or the base model does not offer it."),
    "function_name": Rule(REJECTED, "A function call or response has no name."),
    "nesting": Rule(REJECTED, "Arguments or a response are nested more than 64 deep, or a row more than 128."),
    "unknown_field": Rule(KEPT, "A field or column is not used in tuning: unknown, misspelt, or in the wrong place."),
    "media_placeholder": Rule(KEPT, "A text of a row without media holds `<image>` or `<video>`, which is learnt."),
    "no_effect": Rule(KEPT, "generationConfig holds fields other than mediaResolution, which tuning does not use."),
}
_EXAMPLES = {
    "input_too_long": Rule(
        REJECTED, "The input before the answer has more characters than allowed.", "max_input_chars"
    ),
    "output_too_long": Rule(REJECTED, "The answer has more characters than allowed.", "max_output_chars"),
    "empty_output": Rule(REJECTED, "A learnt answer is empty."),
    "nothing_learnt": Rule(REJECTED, "All model turns have the weight 0."),
    "blank_output": Rule(KEPT, "A learnt answer holds only whitespace."),
    "functions_unsupported": Rule(REJECTED, "The base model cannot be tuned on function calls or tools."),
    "tool_declaration": Rule(REJECTED, "A tool does not declare functions, or a function declaration is invalid."),
    "call_not_declared": Rule(REJECTED, "A call names a function that the example's tools do not declare."),
    "function_role": Rule(REJECTED, "A call is outside a model turn, or a response outside a user turn."),
    "response_without_call": Rule(REJECTED, "A function response has no earlier call of that name."),
    "text_beside_call": Rule(
        REJECTED, "A model turn holds text and calls, which the base model cannot write in one turn."
    ),
    "media_in_answer": Rule(REJECTED, "A learnt model turn holds media."),
    "text_only_base": Rule(REJECTED, "The base model reads text only."),
    "audio_unsupported": Rule(REJECTED, "Training does not support audio."),
    "segment_of_image": Rule(REJECTED, "An image has videoMetadata."),
    "mixed_resolution": Rule(REJECTED, "The resolution differs from that of the first line with media."),
    "moment_outside_segment": Rule(KEPT, "A text names a time outside the video segment that the model sees."),
    "too_many_tokens": Rule(DROPPED, "The example is longer than the base model or the profile allows.", "max_tokens"),
    "too_many_images": Rule(DROPPED, "The example has more images than allowed.", "max_images"),
    "too_many_videos": Rule(DROPPED, "The example has more videos than allowed.", "max_videos"),
    "too_many_documents": Rule(DROPPED, "The example has more PDFs than allowed.", "max_pdfs"),
    "image_too_large": Rule(DROPPED, "The image has more bytes than allowed.", "max_image_bytes"),
    "video_too_large": Rule(DROPPED, "The video has more bytes than allowed.", "max_video_bytes"),
    "video_too_long": Rule(
        DROPPED, "The used segment is longer than allowed at its resolution, or the file is longer than any limit."
    ),
    "document_too_large": Rule(DROPPED, "The PDF has more bytes than allowed.", "max_pdf_bytes"),
    "too_many_pages": Rule(DROPPED, "The PDF has more pages than allowed.", "max_pdf_pages"),
    "mime_type_wrong": Rule(DROPPED, "The file holds a different kind of medium than declared."),
}
_NOTES = {
    "hdr_video": Rule(KEPT, "The video is HDR (PQ or HLG), and is shown without tone mapping: pale and too dark."),
    "grey_depth": Rule(KEPT, "A 16-bit greyscale picture uses fewer bits; its brightness is scaled to those."),
}
_FETCHING = {
    "media_not_found": "There is no such file.",
    "media_outside_roots": "The file is outside the folders and buckets that media may come from.",
    "media_uri_invalid": "The address is not valid for a medium.",
    "media_is_a_page": "The address leads to a page about a medium (YouTube, Google Drive, …), not to a file.",
    "media_uri_relative": "The path is relative to an unknown folder.",
    "media_uri_unsupported": "Addresses of this kind are not supported.",
    "media_address_refused": "The address leads to a private network or does not resolve.",
    "media_too_many_redirects": "The server redirects too many times.",
    "media_too_many_bytes": "The file exceeds the size limit for any medium.",
    "media_too_slow": "The transfer took too long.",
    "media_unavailable": "The server or bucket is unreachable or refuses the request.",
    "media_encoded": "The server sends the file compressed without being asked to.",
    "media_not_a_file": "The address names a folder or a device.",
    "media_not_readable": "The file cannot be read.",
    "media_changed": "The file changed after its inspection.",
    "media_unread": "It was not looked at.",
}
_FILES = {
    "media_empty": "The file is empty.",
    "media_is_text": "The file is text.",
    "media_playlist": "The file is a playlist; its entries are not followed.",
    "media_type_unsupported": "The file type is not supported.",
    "media_unreadable": "No decoder can read it.",
    "media_truncated": "The file is truncated or damaged.",
    "media_damaged": "The video cannot be cut: it is damaged.",
    "media_too_much_memory": "Decoding needs more memory than a medium may use.",
    "media_not_a_picture": "A picture was expected.",
    "media_not_a_video": "A video was expected.",
    "decoder_crashed": "The decoder crashed on the file.",
    "decoder_timeout": "The decoder took too long.",
    "image_animated": "The picture is animated.",
    "image_corrupt": "The picture is truncated or damaged.",
    "image_too_many_pixels": "The decoded picture is too large.",
    "pdf_encrypted": "The PDF needs a password.",
    "pdf_page_missing": "The PDF has no such page.",
    "pdf_too_many_pages": "The PDF has more pages than the decoder reads.",
    "video_codec_unsupported": "The video's codec is not supported.",
    "video_without_frames": "The video has no frames.",
    "video_size_unknown": "The video's frame size is missing or too large.",
    "video_too_many_frames": "The request samples more frames than the decoder allows.",
    "video_too_many_packets": "The video has more packets than the decoder reads.",
    "video_too_many_pixels": "The video's frames are too large.",
    "segment_empty": "The segment contains no frames.",
    "segment_outside_video": "The segment starts after the end of the video.",
    "features_not_finite": "The base model's vision tower returns numbers that are not finite.",
    "frame_corrupt": "A sampled frame is damaged.",
    "piece_too_large": "Even after shrinking, the part exceeds the limit (`kastor prepare`).",
}

SECTIONS: Mapping[str, Mapping[str, Rule]] = MappingProxyType(
    {
        "Rows": _ROWS,
        "Examples": _EXAMPLES,
        "Fetching media": {name: Rule(DROPPED, meaning) for name, meaning in _FETCHING.items()},
        "Media": {name: Rule(DROPPED, meaning) for name, meaning in _FILES.items()} | _NOTES,
    }
)
RULES: Mapping[str, Rule] = MappingProxyType(
    {name: rule for rules in SECTIONS.values() for name, rule in rules.items()}
)

"""All rules of the gate by name, with what becomes of a row that breaks one, and why. The reference is made from it.

What is found in a medium itself drops the row: the others are trained on, unless too many are dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

REJECTED, DROPPED, KEPT = "rejected", "dropped", "kept"


@dataclass(frozen=True, slots=True)
class Rule:
    """What one rule means."""

    outcome: str
    meaning: str
    limit: str = ""  # the number of the profile behind it, which an operator may raise


_ROWS = {
    "not_json": Rule(REJECTED, "The line is no JSON, even with trailing commas and comments passed over."),
    "line_too_long": Rule(REJECTED, "The line is longer than 64 MiB, unpacked."),
    "not_csv": Rule(REJECTED, "A quotation mark is not closed where it should be; nothing behind it is read."),
    "csv_fields": Rule(REJECTED, "The row has more or fewer fields than the header."),
    "shape": Rule(REJECTED, "It is none of the forms that are read."),
    "ambiguous": Rule(REJECTED, "It can be read in two ways: several inputs, several outputs, or two examples in one."),
    "duplicate_key": Rule(REJECTED, "A key stands twice in one object, or a field in two spellings."),
    "preference_row": Rule(
        REJECTED, "It is for preference tuning, which is not offered; as the first row, the file is."
    ),
    "text_alone": Rule(REJECTED, "It is one text without prompt and answer. As first row it stands for the file."),
    "message_field": Rule(REJECTED, "A message has a refusal or audio beside its content."),
    "media_beside": Rule(REJECTED, "Media stand beside the messages, not in them."),
    "type": Rule(REJECTED, "A field holds another type than it should."),
    "role": Rule(REJECTED, "A turn's role is unknown, or a system message stands behind the first turn."),
    "first_turn": Rule(REJECTED, "Nothing stands before the model's turn."),
    "last_turn": Rule(REJECTED, "The last turn is not the model's: there is nothing to learn."),
    "turn_order": Rule(REJECTED, "Two turns of one side follow each other."),
    "turn_weight": Rule(REJECTED, "A weight is neither 0 nor 1, or is 1 on a turn that is not the model's."),
    "part_kind": Rule(REJECTED, "A part holds none or several of the kinds of parts, or one that cannot be tuned on."),
    "media_address": Rule(REJECTED, "fileUri is empty."),
    "base64": Rule(REJECTED, "inlineData is empty or no base64."),
    "mime_type": Rule(REJECTED, "The declared type is none that can be trained on."),
    "duration": Rule(REJECTED, 'An offset is not written as seconds, such as "5s".'),
    "segment": Rule(REJECTED, "endOffset is not after startOffset."),
    "fps": Rule(REJECTED, "fps is not above 0 and at most 24."),
    "media_resolution": Rule(REJECTED, "The resolution is unknown, or the base model has none such."),
    "function_name": Rule(REJECTED, "A function call or response has no name."),
    "nesting": Rule(REJECTED, "Arguments or a response are nested more than 64 deep, or a row more than 128."),
    "unknown_field": Rule(KEPT, "A field or column plays no part in tuning: unknown, misspelt, or in the wrong place."),
    "media_placeholder": Rule(KEPT, "A text of a row without media holds `<image>` or `<video>`, which is learnt."),
    "no_effect": Rule(KEPT, "generationConfig holds more than mediaResolution, which alone plays a part."),
}
_EXAMPLES = {
    "input_too_long": Rule(REJECTED, "More characters before the answer than allowed.", "max_input_chars"),
    "output_too_long": Rule(REJECTED, "More characters in the answer than allowed.", "max_output_chars"),
    "empty_output": Rule(REJECTED, "An answer that is learnt is empty."),
    "nothing_learnt": Rule(REJECTED, "All turns that would be learnt have the weight 0."),
    "blank_output": Rule(KEPT, "An answer that is learnt holds blanks only."),
    "functions_unsupported": Rule(REJECTED, "The base model cannot be tuned on function calls or tools."),
    "tool_declaration": Rule(REJECTED, "A tool is none of functions, or the declaration of a function is wrong."),
    "call_not_declared": Rule(REJECTED, "The example has tools, and a call names none of their functions."),
    "function_role": Rule(
        REJECTED, "A call stands elsewhere than in the model's turn, or a response than in the user's."
    ),
    "response_without_call": Rule(REJECTED, "A function response answers no call of that name before it."),
    "text_beside_call": Rule(REJECTED, "The model's turn holds text and calls, which the base writes apart only."),
    "media_in_answer": Rule(REJECTED, "Media stand in a turn of the model's that is learnt."),
    "text_only_base": Rule(REJECTED, "The base model reads text only."),
    "audio_unsupported": Rule(REJECTED, "Audio cannot be trained on."),
    "segment_of_image": Rule(REJECTED, "videoMetadata stands beside an image."),
    "mixed_resolution": Rule(REJECTED, "The resolution differs from that of the first line with media."),
    "moment_outside_segment": Rule(KEPT, "A text names a moment outside the segment of the video that is shown."),
    "too_many_tokens": Rule(DROPPED, "The example is longer than the base model or the profile allows.", "max_tokens"),
    "too_many_images": Rule(DROPPED, "More images in the example than allowed.", "max_images"),
    "too_many_videos": Rule(DROPPED, "More videos in the example than allowed.", "max_videos"),
    "too_many_documents": Rule(DROPPED, "More PDFs in the example than allowed.", "max_pdfs"),
    "image_too_large": Rule(DROPPED, "The image has more bytes than allowed.", "max_image_bytes"),
    "video_too_large": Rule(DROPPED, "The video has more bytes than allowed.", "max_video_bytes"),
    "video_too_long": Rule(
        DROPPED, "The used part is longer than allowed at its resolution, or the file beyond all use."
    ),
    "document_too_large": Rule(DROPPED, "The PDF has more bytes than allowed.", "max_pdf_bytes"),
    "too_many_pages": Rule(DROPPED, "The PDF has more pages than allowed.", "max_pdf_pages"),
    "mime_type_wrong": Rule(DROPPED, "The file holds another kind of medium than it is declared as."),
}
_NOTES = {
    "hdr_video": Rule(KEPT, "The video is HDR (PQ or HLG), and is shown without tone mapping: pale and too dark."),
    "grey_depth": Rule(KEPT, "A greyscale picture of 16 bits uses fewer; its brightness is taken from those it uses."),
}
_FETCHING = {
    "media_not_found": "There is no such file.",
    "media_outside_roots": "The file does not lie where media may come from.",
    "media_uri_invalid": "The address is no name of a medium.",
    "media_is_a_page": "The address is that of a page about a medium (YouTube, Google Drive, …), not of a file.",
    "media_uri_relative": "The path is relative, and nothing says to what.",
    "media_uri_unsupported": "Addresses of this kind are not fetched.",
    "media_address_refused": "The address leads into a private network, or nowhere.",
    "media_too_many_redirects": "The server sends from one address to the next.",
    "media_too_many_bytes": "The file is larger than any medium may be.",
    "media_too_slow": "The transfer took too long.",
    "media_unavailable": "The server or bucket cannot be reached, or refuses.",
    "media_encoded": "The server sends it compressed, unasked.",
    "media_not_a_file": "It is a folder or a device.",
    "media_not_readable": "The file cannot be read.",
    "media_changed": "The file is no longer the one that was looked at.",
    "media_unread": "It was not looked at.",
}
_FILES = {
    "media_empty": "The file is empty.",
    "media_is_text": "The file is text.",
    "media_playlist": "The file is a playlist; what it names is not followed.",
    "media_type_unsupported": "The file is of a kind that is not decoded.",
    "media_unreadable": "No decoder can read it.",
    "media_truncated": "The file was cut off or is damaged.",
    "media_damaged": "The video cannot be cut: it is damaged.",
    "media_too_much_memory": "It asks for more memory than a medium may have.",
    "media_not_a_picture": "A picture was expected.",
    "media_not_a_video": "A video was expected.",
    "decoder_crashed": "The decoder died of it.",
    "decoder_timeout": "The decoder took too long.",
    "image_animated": "The picture is animated.",
    "image_corrupt": "The picture is cut off or damaged.",
    "image_too_many_pixels": "Unpacked, the picture is too large.",
    "pdf_encrypted": "The PDF asks for a password.",
    "pdf_page_missing": "The PDF has no such page.",
    "pdf_too_many_pages": "The PDF has more pages than are ever read.",
    "video_codec_unsupported": "The video's codec is not decoded.",
    "video_without_frames": "The video has no frames.",
    "video_size_unknown": "The video's pictures have no size, or too large a one.",
    "video_too_many_frames": "More frames would be taken than are ever decoded.",
    "video_too_many_packets": "The video has more packets than are ever read.",
    "video_too_many_pixels": "The video's pictures are too large.",
    "segment_empty": "The segment names no frames.",
    "segment_outside_video": "The segment starts behind the video's end.",
    "features_not_finite": "The base model's vision tower makes no finite numbers of it.",
    "frame_corrupt": "A frame to be taken is damaged.",
    "piece_too_large": "Made smaller, it is still over the limit (`kastor prepare`).",
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

"""The limits a request is held to, one profile per service whose wire Kastor speaks.

Sources: Gemini API tuning guide (characters per example, body size, display name) and field documentation of
`google.ai.generativelanguage.v1beta.TunedModel` (id pattern). The `open` profile lifts what only the old
service needed.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds; `None` means unbounded. Characters are Unicode code points."""

    name: str
    max_input_chars: int | None
    max_output_chars: int | None
    max_body_bytes: int
    max_display_name_chars: int = 40
    max_id_chars: int = 40
    max_epochs: int = 1000
    max_batch_size: int = 1024
    max_learning_rate: float = 1.0
    system_on_tuned: bool = True  # whether a tuned model may be given a system instruction
    json_on_tuned: bool = True  # whether a tuned model's answers may be asked for as JSON or as one of an enum
    media_on_tuned: bool = True  # whether a tuned model may be shown images, videos and documents
    functions_on_tuned: bool = True  # whether a tuned model may be given functions to call
    max_media: int = 32  # in a request for generation
    max_media_bytes: int = 2 * 1024**3  # of all of them
    max_video_s: float = 3600.0  # of all of them, what is used
    max_look_s: float = 60.0  # to fetch one


GEMINI_API = Limits(
    "gemini-api",
    max_input_chars=40_000,
    max_output_chars=5_000,
    max_body_bytes=4 * 1024 * 1024,
    system_on_tuned=False,
    json_on_tuned=False,
    media_on_tuned=False,
    functions_on_tuned=False,
)
OPEN = Limits("open", max_input_chars=None, max_output_chars=None, max_body_bytes=256 * 1024 * 1024)

PROFILES = {limits.name: limits for limits in (GEMINI_API, OPEN)}

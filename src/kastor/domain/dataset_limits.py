"""What a dataset is held to, one profile per service and model generation; an operator may raise each number.

Sources: the tables of Google's pages on supervised tuning of text, images, documents and video, as vertex-api.md §7.2
collects them. The `open` profile keeps only what protects the machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from kastor.domain.content import Resolution
from kastor.domain.errors import InvalidArgument

MB = 1_000_000
SECONDS: Mapping[Resolution, float] = MappingProxyType(
    {Resolution.LOW: 20 * 60.0, Resolution.MEDIUM: 5 * 60.0, Resolution.HIGH: 5 * 60.0}
)


@dataclass(frozen=True, slots=True)
class DatasetLimits:
    """Upper bounds; `None` means unbounded. An example over one is dropped; where it says rejected, it is that."""

    name: str
    max_input_chars: int | None = None  # rejected
    max_output_chars: int | None = None  # rejected
    max_tokens: int | None = None  # of an example; the base model's own bound holds besides
    max_images: int | None = None  # in an example
    max_image_bytes: int | None = None
    max_videos: int | None = None  # in an example
    max_video_bytes: int | None = None
    max_video_s: Mapping[Resolution, float] | None = None  # of the part that is used
    max_pdfs: int | None = None  # in an example
    max_pdf_bytes: int | None = None
    max_pdf_pages: int | None = None
    one_resolution: bool = False  # the same on every line of training and validation; others are rejected
    max_dropped_share: float = 0.1  # of the rows; a job with more fails before it trains
    max_file_bytes: int | None = None  # of the JSONL file
    max_examples: int | None = None
    max_media_examples: int | None = None  # where any example holds media
    max_validation_examples: int | None = None
    max_validation_share: float | None = None  # of the training examples; counts from 1,000 validation examples on


_VERTEX = DatasetLimits(
    "vertex",
    max_tokens=131_072,
    max_images=30,
    max_image_bytes=20 * MB,
    max_videos=1,
    max_video_bytes=100 * MB,
    max_video_s=SECONDS,
    max_pdfs=4,
    max_pdf_bytes=20 * MB,
    max_pdf_pages=300,
    one_resolution=True,
    max_file_bytes=1000 * MB,
    max_examples=10_000_000,
    max_media_examples=300_000,
    max_validation_examples=5_000,
    max_validation_share=0.3,
)
GEMINI_API_DATASET = DatasetLimits(
    "gemini-api", max_input_chars=40_000, max_output_chars=5_000, max_images=0, max_videos=0, max_pdfs=0
)
OPEN_DATASET = DatasetLimits("open", max_dropped_share=1.0)

DATASET_PROFILES: Mapping[str, DatasetLimits] = MappingProxyType(
    {
        limits.name: limits
        for limits in (
            OPEN_DATASET,
            GEMINI_API_DATASET,
            replace(_VERTEX, name="vertex-gemini-3"),
            replace(_VERTEX, name="vertex-gemini-2.5"),
            replace(_VERTEX, name="vertex-gemini-2.0", max_examples=1_000_000, max_validation_share=None),
            replace(
                _VERTEX,
                name="vertex-gemini-1.5",
                max_tokens=32_000,
                max_images=16,
                max_examples=None,
                max_media_examples=None,
                max_validation_examples=256,
                max_validation_share=None,
            ),
        )
    }
)

DEFAULT_PROFILE = OPEN_DATASET.name
"""Of a dataset file, where nothing else is said."""


def dataset_limits(profile: str, raised: Mapping[str, float | None] = MappingProxyType({})) -> DatasetLimits:
    """The profile of this name, with the operator's own numbers.

    Raises:
        InvalidArgument: there is no such profile or limit; names the known ones.

    >>> dataset_limits("vertex-gemini-2.5", {"max_images": 50}).max_images
    50

    """
    if profile not in DATASET_PROFILES:
        raise InvalidArgument(f"There is no profile {profile!r}; known are {', '.join(DATASET_PROFILES)}.")
    numbers = {one.name for one in fields(DatasetLimits)} - {"name", "max_video_s", "one_resolution"}
    unknown = sorted(raised.keys() - numbers)
    if unknown:
        raise InvalidArgument(f"There is no limit {', '.join(unknown)}; known are {', '.join(sorted(numbers))}.")
    return replace(DATASET_PROFILES[profile], **raised)  # type: ignore[arg-type]  # checked by name above

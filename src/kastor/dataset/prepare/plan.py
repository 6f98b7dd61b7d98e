"""What is to be done with a dataset's media so that it passes the gate: arithmetic, nothing is touched.

Google's advice, in its order: leave out the few large files; else lower their resolution; else cut them into parts. A
file that is only too long is not cut: its examples get windows of it by `videoMetadata`.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from pathlib import Path

from kastor.dataset.formats.issues import Issue
from kastor.dataset.timestamps.config import TimestampConfig
from kastor.dataset.validation.rules import media_resolution, segment_duration_s
from kastor.domain.content import Example, Media, Role, Text
from kastor.domain.dataset_limits import DatasetLimits
from kastor.domain.media import MediaKind, Probe
from kastor.domain.vision import VisionSpec

REPAIRABLE_RULES = frozenset({"video_too_long", "video_too_large", "image_too_large", "too_many_tokens"})
FRAME_TOKENS = 12  # of a frame beside its picture: the moment and what stands around it
TEXT_BYTES_PER_TOKEN = 2  # cautiously
# what encoding leaves: 0.11 MB a second for 854 x 480 at 30 frames a second (measured; superfast, crf 23)
BYTES_PER_PIXEL_S = 110_000 / (854 * 480)
SURE_SHARE = 0.9  # of the limit, which an estimate must keep
WORTH_SHARE = 0.8  # of the pixels; lowering the resolution by less does not help


class Strategy(StrEnum):
    """What may be done with files over the size limit."""

    AUTO = "auto"
    DROP = "drop"
    SHRINK = "shrink"
    CUT = "cut"


class TimestampOrigin(StrEnum):
    """Where the moments of an example count from: the file's beginning, or that of its segment (startOffset)."""

    FILE = "file"
    SEGMENT = "segment"


class MediaAction(StrEnum):
    """What is done with one medium."""

    DROP = "drop"
    SHRINK = "shrink"
    CUT = "cut"
    WINDOW = "window"
    RETIME = "retime"


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller can choose."""

    strategy: Strategy = Strategy.AUTO
    drop_share: float = 0.05  # of the rows, up to which oversized media are left out rather than changed
    max_s: float | None = None  # of a part, below what the profile allows
    times_from: TimestampOrigin = TimestampOrigin.FILE
    copy_untimed: bool = False  # give an answer without moments to every part
    leave_media: bool = False  # local media that need no change stay where they are, under their absolute path
    num_jobs: int = 2
    forms: TimestampConfig = TimestampConfig()


@dataclass(frozen=True, slots=True)
class MediaSource:
    """One medium of the dataset as it lies on this machine."""

    key: str  # its address, or the hash of its bytes
    path: Path
    sha256: str
    probe: Probe

    @property
    def num_bytes(self) -> int:
        """Of the file."""
        return self.probe.num_bytes


@dataclass(slots=True)
class SourceRequirements:
    """What the rows ask of one source: how many rows, pixels on the shorter side, and the longest part allowed."""

    source: MediaSource
    medium: Media  # of the first of them
    num_rows: int = 0
    lines: int = 0
    max_s: float | None = None
    too_long: bool = False
    too_large: bool = False

    def add(self, lines: int, max_s: float | None, *, too_long: bool) -> None:
        """One more row."""
        self.num_rows += 1
        self.lines = max(self.lines, lines)
        if max_s is not None:
            self.max_s = max_s if self.max_s is None else min(self.max_s, max_s)
        self.too_long = self.too_long or too_long


class PromptTexts:
    """Which prompts several rows have; by their hashes, so that memory stays small."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._shared: set[int] = set()

    def add(self, example: Example) -> None:
        """The texts of a row's user turns."""
        for key in {hash(part.text) for part in user_texts(example)}:
            (self._shared if key in self._seen else self._seen).add(key)

    def are_shared(self, text: str) -> bool:
        """Whether several rows have this text."""
        return hash(text) in self._shared


@dataclass(frozen=True, slots=True)
class ExcludedRow:
    """Why a row is not in the outcome."""

    rule: str
    message: str


@dataclass(slots=True)
class DatasetSurvey:
    """The dataset as it is: what is wrong with its rows, by line; rows not named pass as they are."""

    num_rows: int = 0
    left_out: dict[int, ExcludedRow] = field(default_factory=dict)
    to_mend: set[int] = field(default_factory=set)
    sources: dict[str, MediaSource] = field(default_factory=dict)
    needs: dict[str, SourceRequirements] = field(default_factory=dict)
    num_oversized_rows: int = 0
    prompts: PromptTexts = field(default_factory=PromptTexts)
    findings: dict[int, tuple[Issue, ...]] = field(default_factory=dict)  # of rows that are not left out


@dataclass(frozen=True, slots=True)
class MediaStep:
    """What is done with one source."""

    need: SourceRequirements
    act: MediaAction
    why: str

    @property
    def makes_files(self) -> bool:
        """Whether a new file comes of it."""
        return self.act in (MediaAction.SHRINK, MediaAction.CUT)


@dataclass(frozen=True, slots=True)
class PreparePlan:
    """What will be done, for people to read before it is."""

    survey: DatasetSurvey
    steps: Mapping[str, MediaStep]

    @property
    def num_unchanged(self) -> int:
        """Rows that pass as they are."""
        return self.survey.num_rows - len(self.survey.left_out) - len(self.survey.to_mend)

    def counts(self) -> Counter[MediaAction]:
        """How many media have each fate."""
        return Counter(step.act for step in self.steps.values())


def source_key(media: Media, sha256: str) -> str:
    """What names the file of a medium."""
    return media.uri or f"sha256:{sha256}"


def key_of(medium: Media) -> str:
    """The key of a medium's source."""
    return source_key(medium, "" if medium.uri else hashlib.sha256(medium.data).hexdigest())


def longest_s(
    media: Media, example: Example, limits: DatasetLimits, vision: VisionSpec, options: Options, max_tokens: int | None
) -> float | None:
    """Seconds of a video that one example may use; `None` for no bound.

    `max_tokens`, where tokens can be counted, bounds it by what the example's texts leave.
    """
    resolution = media_resolution(media, example, vision)
    bounds = [options.max_s, None if limits.max_video_s is None else limits.max_video_s[resolution]]
    if max_tokens is not None:
        texts = sum(len(content.text.encode()) for content in example.contents) // TEXT_BYTES_PER_TOKEN
        frame = vision.num_tokens(resolution) + FRAME_TOKENS
        bounds.append(max(0.0, float((max_tokens - texts - 256) // frame)) / (media.fps or 1.0))
    known = [bound for bound in bounds if bound is not None]
    return min(known) if known else None


def user_texts(example: Example) -> Iterator[Text]:
    """The texts of its prompts: of every turn of the user's."""
    for content in example.contents:
        if content.role is Role.USER:
            yield from (part for part in content.parts if isinstance(part, Text))


def counts_from_segment(media: Media, source: MediaSource, options: Options) -> bool:
    """Whether moments beside this medium count from its startOffset, which the model's clock does not."""
    is_video = source.probe.kind is MediaKind.VIDEO
    return options.times_from is TimestampOrigin.SEGMENT and is_video and bool(media.start_s)


def too_large(source: MediaSource, limits: DatasetLimits) -> bool:
    """Whether the file is over the profile's limit for its kind."""
    most = limits.max_video_bytes if source.probe.kind is MediaKind.VIDEO else limits.max_image_bytes
    return most is not None and source.num_bytes > most


def too_long(media: Media, source: MediaSource, longest: float | None) -> bool:
    """Whether an example uses more of the video than it may."""
    duration_s = source.probe.duration_s
    return longest is not None and duration_s is not None and segment_duration_s(media, duration_s) > longest


def decide_steps(survey: DatasetSurvey, limits: DatasetLimits, options: Options) -> PreparePlan:
    """What to do with each source that needs something."""
    few = survey.num_oversized_rows <= options.drop_share * survey.num_rows
    return PreparePlan(survey, {key: _step(need, limits, options, few=few) for key, need in survey.needs.items()})


def _step(need: SourceRequirements, limits: DatasetLimits, options: Options, *, few: bool) -> MediaStep:
    size = f"{need.source.num_bytes / 1e6:,.1f} MB"
    if not (need.too_large or need.too_long):
        return MediaStep(need, MediaAction.RETIME, "moments that count from a segment's start count from the file's")
    if options.strategy is Strategy.DROP:
        return MediaStep(need, MediaAction.DROP, "left out, as asked")
    if not need.too_large:
        return MediaStep(
            need, MediaAction.WINDOW, f"longer than {need.max_s:,.0f} s; the file is within the size limit"
        )
    if options.strategy is Strategy.AUTO and few:
        return MediaStep(need, MediaAction.DROP, f"{size}, and only a few rows use files over the limit")
    if need.source.probe.kind is not MediaKind.VIDEO:
        return MediaStep(need, MediaAction.SHRINK, f"{size}; scaled to {need.lines} lines, all that the model sees")
    if options.strategy is Strategy.SHRINK or (options.strategy is Strategy.AUTO and shrink_suffices(need, limits)):
        return MediaStep(
            need, MediaAction.SHRINK, f"{size}; encoded anew with {need.lines} lines, all that the model sees"
        )
    return MediaStep(need, MediaAction.CUT, f"{size}; cut into parts")


def shrink_suffices(need: SourceRequirements, limits: DatasetLimits) -> bool:
    """Whether lowering the resolution would bring the video under the size limit, by estimate."""
    probe = need.source.probe
    width, height = probe.width or 1, probe.height or 1
    scale = min(1.0, need.lines / min(width, height))
    pixels = width * height * scale * scale
    estimated = (probe.duration_s or 0) * pixels * BYTES_PER_PIXEL_S * max(0.5, (probe.fps or 30) / 30)
    most = limits.max_video_bytes
    return scale * scale <= WORTH_SHARE and (most is None or estimated <= SURE_SHARE * most)


@dataclass(frozen=True, slots=True)
class VideoPart:
    """A part of a source in its new place: a file that shows [start_s, end_s) of it, exact seconds."""

    name: str  # of the file in the media folder; empty: the source itself
    mime_type: str
    start_s: Fraction
    end_s: Fraction


def overlapping_parts(
    parts: Sequence[VideoPart], start_s: Fraction, end_s: Fraction
) -> Iterator[tuple[VideoPart, Fraction, Fraction]]:
    """The parts that a segment meets, each with what of the segment lies in it."""
    for part in parts:
        low, high = max(part.start_s, start_s), min(part.end_s, end_s)
        if low < high:
            yield part, low, high

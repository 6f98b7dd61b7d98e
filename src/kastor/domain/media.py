"""What is known about a medium, as values: what it is, which frames are taken from it, what is wrong with it.

Files are fetched, opened and decoded in `kastor.media`.
"""

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from kastor.domain.errors import FieldViolation, InvalidArgument


class MediaKind(StrEnum):
    """What a file's bytes hold, whatever its name or declared type says."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    PDF = "pdf"


@dataclass(frozen=True, slots=True)
class Probe:
    """What a file says about itself; `None` where it has no such thing.

    Width and height are those of the picture as shown: in square pixels, after `rotation`, the degrees counterclockwise
    (0, 90, 180 or 270) by which decoding turns the stored picture. `stored_size` is (width, height) as shown, but in
    pixels of the file, where those are not square. `page_sizes` are (width, height) in points of 1/72 inch.
    """

    kind: MediaKind
    container: str
    num_bytes: int
    codec: str | None = None
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    fps: float | None = None
    rotation: int = 0
    num_frames: int | None = None
    num_pages: int | None = None
    page_sizes: tuple[tuple[float, float], ...] = ()
    stored_size: tuple[int, int] | None = None
    hdr: str = ""  # PQ or HLG, where a video's values stand for more light than a screen's
    grey_bits: int | None = None  # that the values of a deep greyscale picture use


@dataclass(frozen=True, slots=True)
class FrameSampling:
    """Which frames of a video are wanted: `fps` a second of [start_s, end_s), to the end if `end_s` is absent."""

    fps: float = 1.0
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """The frames chosen from one video: for each moment the presentation time of the frame that is on the screen.

    Moments are seconds since the container's start; `pts` are in units of `time_base` as stored, of which `start_pts`
    is that start. Neither list ever goes back, and a frame that is on the screen at several moments is repeated.
    """

    moments_s: tuple[float, ...]
    pts: tuple[int, ...]
    time_base: Fraction
    start_pts: int
    duration_s: float  # of the whole video

    @property
    def num_frames(self) -> int:
        """How many frames the plan gives, repeated ones counted."""
        return len(self.moments_s)

    @property
    def shown_s(self) -> tuple[float, ...]:
        """When the chosen frames begin to be shown, in seconds since the start."""
        return tuple(float((pts - self.start_pts) * self.time_base) for pts in self.pts)


class Resampling(StrEnum):
    """The filter by which a picture is scaled: part of what its pixels are."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


@dataclass(frozen=True, slots=True)
class MediaFault:
    """Why one medium cannot be used: a stable rule id, what is wrong with it, and what would help."""

    rule: str
    message: str
    hint: str = ""


class MediumError(InvalidArgument):
    """One medium cannot be used; `fault` says why. Nothing else is disturbed by it."""

    def __init__(
        self,
        message: str,
        *,
        fault: MediaFault | None = None,
        violations: tuple[FieldViolation, ...] = (),
        reason: str = "",
    ) -> None:
        super().__init__(message, violations=violations, reason=reason)
        self.fault = fault or MediaFault("media_unusable", message)

    @classmethod
    def because(cls, fault: MediaFault) -> "MediumError":
        """The error of a fault."""
        return cls(f"{fault.message} {fault.hint}".strip(), fault=fault)

    @classmethod
    def of(cls, rule: str, message: str, hint: str = "") -> "MediumError":
        """The error of a fault of these words."""
        return cls.because(MediaFault(rule, message, hint))

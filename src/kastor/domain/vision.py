"""What a model sees, as values: how its family turns pictures into tokens, and which pictures an example shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kastor.domain.content import Media, Resolution
from kastor.domain.media import MediaKind, SamplingPlan


@dataclass(frozen=True, slots=True)
class Grid:
    """How one picture is laid out: scaled to `width` x `height` pixels it becomes `rows` x `columns` tokens.

    Where it is cut into tiles (rows x columns of them), each is a picture of its own for the tower, and their tokens
    come tile after tile, row by row within each.
    """

    width: int
    height: int
    rows: int
    columns: int
    tiles: tuple[int, int] = (1, 1)

    @property
    def num_tokens(self) -> int:
        """Of the whole picture."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Vision:
    """How a family sees: what a picture is resized to and how many tokens it becomes, at each resolution.

    A picture is written `before`, then `placeholder` as many times as it has tokens, then `after`. Before a frame of a
    video stands the moment it was taken at, as text (`clock`).
    """

    placeholder: str  # a control token; its embeddings are replaced by the picture's
    before: str
    after: str
    size: Mapping[Resolution, int]  # pixels, of each side
    tokens: Mapping[Resolution, int]  # of one picture
    default: Resolution


@dataclass(frozen=True, slots=True)
class View:
    """What a model is shown of one medium: so many pictures, of a video each with its moment in seconds."""

    resolution: Resolution
    num_pictures: int = 1
    moments_s: tuple[float, ...] = ()  # of a video, as many as there are pictures


Views = Mapping[Media, View]
NO_VIEWS: Views = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PlannedMedium:
    """One medium: its content, what the model is shown of it, and of a video the frames."""

    sha256: str
    kind: MediaKind
    view: View
    frames: SamplingPlan | None


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How many tokens an example is trained with."""

    total: int
    supervised: int


def clock(moment_s: float) -> str:
    """A moment as a video's frames carry it, to a tenth of a second where it is not whole.

    >>> clock(5), clock(62.5), clock(3725.04)
    ('00:05', '01:02.5', '62:05')
    """
    tenths = round(moment_s * 10)
    minutes, rest = divmod(tenths, 600)
    seconds, tenth = divmod(rest, 10)
    return f"{minutes:02d}:{seconds:02d}" + (f".{tenth}" if tenth else "")

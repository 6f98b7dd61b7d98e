"""What a model sees, as values: how its family turns pictures into tokens, and which pictures an example shows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from kastor.domain.content import Media, Resolution
from kastor.domain.media import MediaKind, Resampling, SamplingPlan


@dataclass(frozen=True, slots=True)
class Grid:
    """How one picture is laid out: scaled to `width` x `height` pixels it becomes `rows` x `columns` tokens.

    Where a tower sees it in tiles, these are rows and columns of them, each with its own equal part of the tokens; the
    tokens then come tile after tile, and row after row within each.
    """

    width: int
    height: int
    rows: int
    columns: int
    tiles: tuple[int, int] = (1, 1)  # rows, columns

    @property
    def num_tokens(self) -> int:
        """Of the whole picture.

        >>> Grid(512, 256, 8, 16).num_tokens
        128
        """
        return self.rows * self.columns


Layout = Callable[[Resolution, tuple[int, int]], Grid]
"""Resolution, (width, height) of a picture as it is shown, in pixels -> how it is laid out."""


def clock_timestamp(moment_s: float) -> str:
    """A moment as a video's frames carry it, to a tenth of a second where it is not whole.

    >>> clock_timestamp(5), clock_timestamp(62.5), clock_timestamp(3725.04)
    ('00:05', '01:02.5', '62:05')
    """
    tenths = round(moment_s * 10)
    minutes, rest = divmod(tenths, 600)
    seconds, tenth = divmod(rest, 10)
    return f"{minutes:02d}:{seconds:02d}" + (f".{tenth}" if tenth else "")


def no_tile_marker(row: int, column: int) -> str:
    """What stands before a tile of a family that sees no tiles."""
    return ""


class BidirectionalAttention(Enum):
    """In which layers a picture's tokens attend to those after them in it, too."""

    NEVER = "never"
    ALL_LAYERS = "all layers"
    AS_CONFIGURED = "as configured"  # in those with a window, where the model's configuration asks for it


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """How a family sees: how pictures become tokens, at each resolution, and how these are written.

    A picture is written `before`, then `placeholder` as many times as it has tokens, then `after`. Before a frame of a
    video stands the moment it was taken at, as text.
    """

    placeholder: str  # a control token; its embeddings are replaced by the picture's
    before: str
    after: str
    layout: Layout
    default: Resolution
    resolutions: frozenset[Resolution] = frozenset(Resolution)
    moment: Callable[[float], str] = clock_timestamp  # seconds -> what stands before a frame
    tile_mark: Callable[[int, int], str] = no_tile_marker  # row and column of a tile, from 1 -> what stands before it
    resample: Resampling = Resampling.BICUBIC  # by which pictures are scaled
    pretrained: str = ""  # whose tower and projector, of the base itself, give embeddings; else a projector is trained
    on_a_grid: bool = False  # a token's place is its row and column in the picture (M-RoPE)
    both_ways: BidirectionalAttention = BidirectionalAttention.NEVER

    def num_tokens(self, resolution: Resolution, size: tuple[int, int] = (1024, 1024)) -> int:
        """Of a picture of `size` (width, height)."""
        return self.layout(resolution, size).num_tokens


@dataclass(frozen=True, slots=True)
class MediumLayout:
    """What a model is shown of one medium: its pictures as they are laid out, of a video each with its moment."""

    resolution: Resolution
    grids: tuple[Grid, ...]  # one a picture
    moments_s: tuple[float, ...] = ()  # of a video, as many as there are pictures

    @property
    def num_pictures(self) -> int:
        """How many there are."""
        return len(self.grids)

    @property
    def num_tokens(self) -> int:
        """Of all pictures."""
        return sum(grid.num_tokens for grid in self.grids)


MediaLayouts = Mapping[Media, MediumLayout]
NO_LAYOUTS: MediaLayouts = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class MediumPlan:
    """One medium: its content, what the model is shown of it, and of a video the frames."""

    sha256: str
    kind: MediaKind
    view: MediumLayout
    frames: SamplingPlan | None
    scaling: int = 0  # version of the rules by which its pictures are made; 0 stands for the present one


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How many tokens an example is trained with."""

    total: int
    supervised: int

"""How each family lays a picture out at a resolution: pixels and tokens, by arithmetic alone.

A pretrained family's layout is built from the numbers of a model's config.json (`layout_of`) and gives a `Grid` for a
picture of any size; it never gives more tokens than the resolution has. What becomes of the pixels is the business of
`preprocess` and `towers`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from kastor.domain.content import Resolution
from kastor.domain.errors import FailedPrecondition
from kastor.domain.vision import Grid, Layout

BUDGET: Mapping[Resolution, int] = MappingProxyType({Resolution.LOW: 64, Resolution.MEDIUM: 256, Resolution.HIGH: 1024})
"""Tokens of a picture at most. HIGH doubles both sides of MEDIUM as MEDIUM does LOW's: small print on a scanned page
becomes readable, and sixteen pictures still fit a context of 16 k tokens."""

HIGHEST_RATIO = 200  # of the sides: the Qwen processors refuse what is longer; here it is squeezed


@dataclass(frozen=True, slots=True)
class DynamicLayout:
    """Qwen-VL: a picture keeps its proportions, its sides rounded to whole tokens, by the processors' `smart_resize`.

    LOW, MEDIUM and HIGH are its bound on the pixels: 64, 256 and 1024 tokens' worth. A small picture is enlarged to
    `min_tokens`, as in pretraining. Where the processors go above their own bound (a strip of one token's height, a
    picture enlarged to the very bound), this does not.

    >>> DynamicLayout(patch_size=16)(Resolution.LOW, (1920, 1080))
    Grid(width=320, height=192, rows=6, columns=10, tiles=(1, 1))
    """

    patch_size: int
    merge: int = 2  # patches of a token, along each side
    min_tokens: int = 4

    def __call__(self, resolution: Resolution, size: tuple[int, int]) -> Grid:
        """The grid of a picture of `size` (width, height)."""
        factor = self.patch_size * self.merge
        budget = BUDGET[resolution]
        width, height = _squeezed(size)
        columns, rows = round(width / factor), round(height / factor)
        if columns * rows < self.min_tokens:
            scale = math.sqrt(self.min_tokens * factor**2 / (width * height))
            columns, rows = math.ceil(width * scale / factor), math.ceil(height * scale / factor)
        if columns * rows > budget:
            scale = math.sqrt(width * height / (budget * factor**2))
            columns, rows = max(1, math.floor(width / scale / factor)), max(1, math.floor(height / scale / factor))
            columns, rows = min(columns, budget), min(rows, budget)
        return Grid(columns * factor, rows * factor, rows, columns)


def _squeezed(size: tuple[int, int]) -> tuple[float, float]:
    width, height = size
    return max(width, height / HIGHEST_RATIO), max(height, width / HIGHEST_RATIO)


@dataclass(frozen=True, slots=True)
class FittedLayout:
    """Gemma 4: a picture of any size is scaled to the largest of its proportions that the budget holds.

    LOW, MEDIUM and HIGH bound the tokens by 64, 256 and 1024, by the processor's own rule; it was published with the
    bounds 70, 140, 280, 560 and 1120. Where its rule fails (a strip shorter than a token), the strip is one token high.

    >>> FittedLayout(patch_size=16, pool=3)(Resolution.MEDIUM, (1920, 1080))
    Grid(width=1008, height=576, rows=12, columns=21, tiles=(1, 1))
    """

    patch_size: int
    pool: int  # patches of a token, along each side

    def __call__(self, resolution: Resolution, size: tuple[int, int]) -> Grid:
        """The grid of a picture of `size` (width, height)."""
        factor = self.patch_size * self.pool
        budget = BUDGET[resolution]
        width, height = size
        scale = math.sqrt(budget * factor**2 / (width * height))
        columns, rows = math.floor(scale * width / factor), math.floor(scale * height / factor)
        if rows == 0:
            rows, columns = 1, min(width // height, budget)
        elif columns == 0:
            rows, columns = min(height // width, budget), 1
        return Grid(columns * factor, rows * factor, rows, columns)


@dataclass(frozen=True, slots=True)
class PooledLayout:
    """Gemma 3 and LLaVA: every picture is scaled to one square, and its patches are averaged in squares of k x k.

    k is the smallest multiple of the model's own pooling that divides the patches' side and meets the budget. Gemma 3
    (896 pixels, 64 x 64 patches, pooled 4 x 4 by its projector): LOW 8 x 8 -> 64, MEDIUM and HIGH 4 x 4 -> 256.
    LLaVA-1.5 (336 pixels, 24 x 24 patches, not pooled): LOW 3 x 3 -> 64, MEDIUM 2 x 2 -> 144, HIGH all 576.
    The tower sees the same picture at each. A picture that is not square is squashed: cropping its middle, as LLaVA's
    own processor does, would hide the rest of it.

    >>> layout = PooledLayout(image_size=336, patch_size=14)
    >>> [layout(resolution, (1920, 1080)).num_tokens for resolution in Resolution]
    [64, 144, 576]
    """

    image_size: int  # pixels of a side
    patch_size: int
    pool: int = 1  # the model's own: patches of a token, along each side

    def __call__(self, resolution: Resolution, size: tuple[int, int]) -> Grid:
        """The grid of a picture of `size` (width, height), which does not matter here."""
        patches = self.image_size // self.patch_size
        sides = (patches // pool for pool in range(self.pool, patches + 1, self.pool) if patches % pool == 0)
        side = next(side for side in sides if side**2 <= BUDGET[resolution])
        return Grid(self.image_size, self.image_size, side, side)


TILES: Mapping[Resolution, int] = MappingProxyType({Resolution.LOW: 1, Resolution.MEDIUM: 2, Resolution.HIGH: 4})


@dataclass(frozen=True, slots=True)
class TiledLayout:
    """SmolVLM and Idefics3: a picture is scaled to a square and cut into square tiles of 64 tokens each.

    LOW is one tile (of 512 pixels: 32 x 32 patches, shuffled 4 x 4 into 8 x 8 tokens), MEDIUM 2 x 2 of them and HIGH
    4 x 4, without the small picture of the whole that the own processor adds behind its tiles, as 64 more tokens would
    break the budget. A model whose own square makes more than 64 tokens (384 pixels and 3 x 3: 81; 364 and 2 x 2: 169)
    is given a smaller one of 8 x 8 tokens (336; 224): its positions are fractions of the side, learnt from pictures of
    many sizes, whereas to pool its tokens is nothing it has seen, and would leave 9 of 81.

    >>> TiledLayout(image_size=512, patch_size=16, scale=4)(Resolution.MEDIUM, (1920, 1080))
    Grid(width=1024, height=1024, rows=16, columns=16, tiles=(2, 2))
    >>> TiledLayout(image_size=384, patch_size=14, scale=3)(Resolution.LOW, (1920, 1080))
    Grid(width=336, height=336, rows=8, columns=8, tiles=(1, 1))
    """

    image_size: int  # pixels of a tile's side, at most
    patch_size: int
    scale: int  # patches of a token, along each side

    def __call__(self, resolution: Resolution, size: tuple[int, int]) -> Grid:
        """The grid of a picture of `size` (width, height), which does not matter here."""
        tiles = TILES[resolution]
        own = self.image_size // self.patch_size // self.scale
        side = min(own, math.isqrt(BUDGET[resolution] // tiles**2))
        pixels = self.image_size if side == own else side * self.scale * self.patch_size
        return Grid(pixels * tiles, pixels * tiles, side * tiles, side * tiles, (tiles, tiles))


@dataclass(frozen=True, slots=True)
class SquareLayout:
    """kastor-nano-vl: every picture is squashed to a square, of so many pixels a side at each resolution.

    Everything in it stays in sight, and no token is spent on borders.

    >>> SquareLayout({Resolution.LOW: 256}, pixels_a_token=32)(Resolution.LOW, (640, 480))
    Grid(width=256, height=256, rows=8, columns=8, tiles=(1, 1))
    """

    sides: Mapping[Resolution, int]
    pixels_a_token: int  # along each side

    def __call__(self, resolution: Resolution, size: tuple[int, int]) -> Grid:
        """The grid of a picture of `size` (width, height), which does not matter here."""
        side = self.sides[resolution]
        tokens = side // self.pixels_a_token
        return Grid(side, side, tokens, tokens)


def _qwen3_vl(config: Mapping[str, Any]) -> Layout:
    vision = config["vision_config"]
    # its processor enlarges to 256 x 256 pixels
    return DynamicLayout(vision.get("patch_size", 16), vision.get("spatial_merge_size", 2), min_tokens=64)


def _qwen2_5_vl(config: Mapping[str, Any]) -> Layout:
    vision = config["vision_config"]
    return DynamicLayout(vision.get("patch_size", 14), vision.get("spatial_merge_size", 2), min_tokens=4)


def _gemma3(config: Mapping[str, Any]) -> Layout:
    vision = config["vision_config"]
    patches = vision["image_size"] // vision["patch_size"]
    return PooledLayout(
        vision["image_size"], vision["patch_size"], patches // math.isqrt(config.get("mm_tokens_per_image", 256))
    )


def _gemma4(config: Mapping[str, Any]) -> Layout:
    vision = config["vision_config"]
    return FittedLayout(vision.get("patch_size", 16), vision.get("pooling_kernel_size", 3))


def _llava(config: Mapping[str, Any]) -> Layout:
    vision = config["vision_config"]
    return PooledLayout(vision["image_size"], vision["patch_size"])


def _smolvlm(config: Mapping[str, Any]) -> Layout:
    vision = config["vision_config"]
    return TiledLayout(vision["image_size"], vision["patch_size"], config["scale_factor"])


LAYOUTS: Mapping[str, Callable[[Mapping[str, Any]], Layout]] = MappingProxyType(
    {
        "gemma3": _gemma3,
        "gemma4": _gemma4,
        "idefics3": _smolvlm,
        "llava": _llava,
        "qwen2_5_vl": _qwen2_5_vl,
        "qwen3_vl": _qwen3_vl,
        "smolvlm": _smolvlm,
    }
)
"""By the `model_type` of config.json."""


def layout_of(config: Mapping[str, Any]) -> Layout:
    """The layout that a model's config.json asks for.

    Raises:
        FailedPrecondition: of no family known here, or a number that decides is missing.

    """
    kind = str(config.get("model_type"))
    if kind not in LAYOUTS:
        raise FailedPrecondition(
            f"config.json is of the type {kind!r}, whose pictures no layout is known for; known: {', '.join(LAYOUTS)}."
        )
    try:
        layout = LAYOUTS[kind](config)
        layout(Resolution.LOW, (1, 1))  # numbers that do not fit one another are told now
    except (KeyError, TypeError, ValueError, ZeroDivisionError, StopIteration) as error:
        raise FailedPrecondition(
            f"config.json of a {kind} does not say how pictures are laid out ({error!r}): fetch the model again."
        ) from error
    return layout

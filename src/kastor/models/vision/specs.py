"""The vision specification of each model family. Chat templates are in `families`, token grids in `grids`.

In every family each video frame is a picture of its own: its features do not depend on neighbouring frames, so they are
computed once. Qwen-VL, which was trained on pairs of frames, encodes a frame like a still picture.
"""

from kastor.domain.content import Resolution
from kastor.domain.media import Resampling
from kastor.domain.vision import BidirectionalAttention, VisionSpec
from kastor.models.vision.grids import DynamicLayout, FittedLayout, PooledLayout, SquareLayout, TiledLayout

TOWER_FILE = "tower.safetensors"
"""File name of a vision tower's weights, beside those of the language model or of an adapter."""

SQUARE_SIDES = {Resolution.LOW: 256, Resolution.MEDIUM: 512, Resolution.HIGH: 512}


def qwen_timestamp(moment_s: float) -> str:
    """A moment as Qwen3-VL's processor writes it.

    >>> qwen_timestamp(62.5)
    '<62.5 seconds>'
    """
    return f"<{moment_s:.1f} seconds>"


def smolvlm_timestamp(moment_s: float) -> str:
    r"""A moment as SmolVLM's processor writes it, in whole seconds.

    >>> smolvlm_timestamp(62.5)
    '\nFrame from 01:02:'
    """
    minutes, seconds = divmod(int(moment_s), 60)
    return f"\nFrame from {minutes:02d}:{seconds:02d}:"


def gemma4_timestamp(moment_s: float) -> str:
    """A moment as Gemma 4's processor writes it between two frames, in whole seconds.

    >>> gemma4_timestamp(62.5)
    ' 01:02 '
    """
    minutes, seconds = divmod(int(moment_s), 60)
    return f" {minutes:02d}:{seconds:02d} "


def idefics_tile_marker(row: int, column: int) -> str:
    r"""What Idefics3's processor writes before a tile; rows are lines.

    >>> idefics_tile_marker(1, 2), idefics_tile_marker(2, 1)
    ('<fake_token_around_image><row_1_col_2>', '\n<fake_token_around_image><row_2_col_1>')
    """
    line = "\n" if row > 1 and column == 1 else ""
    return f"{line}<fake_token_around_image><row_{row}_col_{column}>"


NANO = VisionSpec(
    placeholder="<jupyter_output>",  # of SmolLM2's vocabulary; no text has it
    before="",
    after="\n",
    layout=SquareLayout(SQUARE_SIDES, pixels_a_token=32),
    default=Resolution.LOW,
)

GEMMA3 = VisionSpec(
    placeholder="<image_soft_token>",
    before="\n\n<start_of_image>",
    after="<end_of_image>\n\n",
    layout=PooledLayout(image_size=896, patch_size=14, pool=4),
    default=Resolution.MEDIUM,
    resample=Resampling.BILINEAR,
    pretrained="gemma3",
    both_ways=BidirectionalAttention.ALL_LAYERS,
)

GEMMA4 = VisionSpec(
    placeholder="<|image|>",
    before="<|image>",
    after="<image|>",
    layout=FittedLayout(patch_size=16, pool=3),
    default=Resolution.MEDIUM,
    moment=gemma4_timestamp,
    pretrained="gemma4",
    both_ways=BidirectionalAttention.AS_CONFIGURED,
)

QWEN3_VL = VisionSpec(
    placeholder="<|image_pad|>",
    before="<|vision_start|>",
    after="<|vision_end|>",
    layout=DynamicLayout(patch_size=16, min_tokens=64),
    default=Resolution.MEDIUM,
    moment=qwen_timestamp,
    pretrained="qwen3-vl",
    on_a_grid=True,
)

QWEN2_5_VL = VisionSpec(
    placeholder="<|image_pad|>",
    before="<|vision_start|>",
    after="<|vision_end|>",
    layout=DynamicLayout(patch_size=14),
    default=Resolution.MEDIUM,
    pretrained="qwen2.5-vl",
    on_a_grid=True,
)

SMOLVLM = VisionSpec(
    placeholder="<image>",
    before="<fake_token_around_image><global-img>",
    after="<fake_token_around_image>",
    layout=TiledLayout(image_size=512, patch_size=16, scale=4),
    default=Resolution.LOW,
    moment=smolvlm_timestamp,
    tile_mark=idefics_tile_marker,
    resample=Resampling.LANCZOS,
    pretrained="smolvlm",
)

LLAVA = VisionSpec(
    placeholder="<image>",
    before="",
    after="\n",
    layout=PooledLayout(image_size=336, patch_size=14),
    default=Resolution.MEDIUM,
    pretrained="llava",
)

"""Generates short annotated clips in which one shape appears and disappears over a moving background.

The annotations are exact: the shape is in every frame of [start_s, end_s) and in no other. Both times are whole
seconds, as a model sees one frame per second. Questions and answers are not this module's concern.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SHAPES = ("circle", "cross", "ring", "square", "triangle")
COLOURS = ((225, 40, 40), (40, 190, 70), (50, 80, 235), (240, 215, 40), (235, 235, 235), (235, 120, 200))
SIDE = 256  # pixels, the size that the embedded base sees at LOW
FRAMES_PER_S = 4
GRAIN = 9  # blobs of the background along a side
LONGEST_S = 4  # longest time that a shape is visible

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip with a shape from `start_s` until just before `end_s`; `seed` determines everything else."""

    seed: int
    seconds: int
    shape: str
    start_s: int
    end_s: int

    def shown_at(self, moment_s: float) -> bool:
        """Whether the shape is visible."""
        return self.start_s <= moment_s < self.end_s


def generate_clips(num_clips: int, seconds: int, seed: int) -> list[Clip]:
    """`num_clips` clips of `seconds` each, with equal numbers of shapes and equally likely intervals.

    The shape is absent at the beginning and end of a clip, so that both times can be seen.
    """
    source = np.random.default_rng([seed, seconds])
    spans = [
        (start, end) for start in range(1, seconds - 1) for end in range(start + 1, min(seconds, start + LONGEST_S + 1))
    ]
    clips = []
    for number in range(num_clips):
        start, end = spans[source.integers(len(spans))]
        clips.append(Clip(int(source.integers(2**31)), seconds, SHAPES[number % len(SHAPES)], start, end))
    return [clips[index] for index in source.permutation(num_clips)]


def pictures(clip: Clip) -> Iterator[Pixels]:
    """The frames of a clip, (SIDE, SIDE, 3), `FRAMES_PER_S` per second."""
    source = np.random.default_rng(clip.seed)
    tint = source.uniform(70, 150, 3)
    blobs = source.uniform(-38, 38, (GRAIN, GRAIN))
    drift = source.uniform(-1.0, 1.0, 2)  # blobs a second
    radius = source.uniform(0.20, 0.28) * SIDE
    begin, stop = source.uniform(0.32, 0.68, (2, 2)) * SIDE
    paint = np.clip(np.array(COLOURS[source.integers(len(COLOURS))]) + source.uniform(-14, 14, 3), 0, 255)
    for number in range(clip.seconds * FRAMES_PER_S):
        moment = number / FRAMES_PER_S
        picture = tint + _background(blobs, drift * moment)[..., None] + source.uniform(-9, 9, (SIDE, SIDE, 1))
        if clip.shown_at(moment):
            way = (moment - clip.start_s) / (clip.end_s - clip.start_s)
            cover = _cover(clip.shape, begin + (stop - begin) * way, radius)[..., None]
            picture = picture * (1 - cover) + paint * cover
        yield np.clip(picture, 0, 255).astype(np.uint8)


def encode_clip(path: Path, clip: Clip) -> None:
    """Encode the clip as an MP4 file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_S, options={"preset": "veryfast", "crf": "26"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, FRAMES_PER_S)
        for number, picture in enumerate(pictures(clip)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _background(blobs: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """The blobs as a smooth periodic surface (SIDE, SIDE), shifted by `shift` blobs."""
    size = len(blobs)
    ys, xs = (np.arange(SIDE) * (size / SIDE) + moved for moved in shift)
    rows = _interpolate(blobs, ys % size, size)
    surface: NDArray[np.float64] = _interpolate(rows.T, xs % size, size).T
    return surface


def _interpolate(values: NDArray[np.float64], places: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Smooth periodic interpolation of `values` along the first axis at `places`."""
    low = places.astype(int) % size
    part = (places - places.astype(int))[:, None]
    smooth = part * part * (3 - 2 * part)
    found: NDArray[np.float64] = values[low] * (1 - smooth) + values[(low + 1) % size] * smooth
    return found


def _cover(shape: str, centre: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """The fraction of each pixel that the shape covers, (SIDE, SIDE)."""
    down, right = np.mgrid[:SIDE, :SIDE] - centre[:, None, None]
    far = np.hypot(down, right)
    inside = {
        "circle": lambda: radius - far,
        "ring": lambda: radius / 4 - abs(far - 0.85 * radius),
        "square": lambda: 0.89 * radius - np.maximum(abs(down), abs(right)),  # about the area of the circle
        "cross": lambda: np.minimum(
            radius - np.maximum(abs(down), abs(right)), radius / 3 - np.minimum(abs(down), abs(right))
        ),
        "triangle": lambda: 0.67 * radius - np.maximum(down, abs(right) * 3**0.5 / 2 - down / 2),
    }[shape]()
    cover: NDArray[np.float64] = np.clip(inside + 0.5, 0, 1)
    return cover

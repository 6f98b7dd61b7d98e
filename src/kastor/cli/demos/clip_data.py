"""Short annotated clips, made on the spot: one shape comes and goes over a moving background.

The truth is exact: the shape is in every frame of [start_s, end_s) and in no other, and the moments are whole seconds,
which is what a model sees at one frame a second. Nothing here knows what is asked of the clips.
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
SIDE = 256  # pixels, what the embedded base sees at LOW
FRAMES_PER_S = 4
GRAIN = 9  # blobs of the background along a side
LONGEST_S = 4  # that a shape stays

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Clip:
    """What a clip shows: a shape from `start_s` until just before `end_s`. `seed` draws all else, its colour, too."""

    seed: int
    seconds: int
    shape: str
    start_s: int
    end_s: int

    def shown_at(self, moment_s: float) -> bool:
        """Whether the shape is there."""
        return self.start_s <= moment_s < self.end_s


def generate_clips(num_clips: int, seconds: int, seed: int) -> list[Clip]:
    """So many clips of `seconds` each, shapes in equal parts, all intervals equally likely.

    A clip neither begins nor ends with its shape, so that both moments can be seen.
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
    """The frames of a clip, (SIDE, SIDE, 3), `FRAMES_PER_S` a second."""
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


def film(path: Path, clip: Clip) -> None:
    """Write the clip as an MP4 file."""
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
    """The blobs as a smooth surface (SIDE, SIDE) that repeats itself, moved by `shift` blobs."""
    size = len(blobs)
    ys, xs = (np.arange(SIDE) * (size / SIDE) + moved for moved in shift)
    rows = _between(blobs, ys % size, size)
    surface: NDArray[np.float64] = _between(rows.T, xs % size, size).T
    return surface


def _between(values: NDArray[np.float64], places: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """`values` along their first axis at `places`, smoothly."""
    low = places.astype(int) % size
    part = (places - places.astype(int))[:, None]
    smooth = part * part * (3 - 2 * part)
    found: NDArray[np.float64] = values[low] * (1 - smooth) + values[(low + 1) % size] * smooth
    return found


def _cover(shape: str, centre: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """How much of each pixel the shape covers, 0 to 1, (SIDE, SIDE)."""
    down, right = np.mgrid[:SIDE, :SIDE] - centre[:, None, None]
    far = np.hypot(down, right)
    inside = {
        "circle": lambda: radius - far,
        "ring": lambda: radius / 4 - abs(far - 0.85 * radius),
        "square": lambda: 0.89 * radius - np.maximum(abs(down), abs(right)),  # of about the circle's area
        "cross": lambda: np.minimum(
            radius - np.maximum(abs(down), abs(right)), radius / 3 - np.minimum(abs(down), abs(right))
        ),
        "triangle": lambda: 0.67 * radius - np.maximum(down, abs(right) * 3**0.5 / 2 - down / 2),
    }[shape]()
    cover: NDArray[np.float64] = np.clip(inside + 0.5, 0, 1)
    return cover

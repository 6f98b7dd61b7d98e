"""How families lay out a picture at a token budget: LOW 64 tokens, MEDIUM 256. Arithmetic only."""

from collections.abc import Mapping
from dataclasses import dataclass

from kastor.domain.content import Resolution
from kastor.domain.vision import Grid


@dataclass(frozen=True)
class Squares:
    """Every picture is squashed to a square: everything in it stays in sight, and no token is spent on borders.

    `sides` are pixels by resolution, `pixels_a_token` those of a token's side.

    >>> Squares({Resolution.LOW: 256}, pixels_a_token=32)(Resolution.LOW, (640, 480))
    Grid(width=256, height=256, rows=8, columns=8, tiles=(1, 1))
    """

    sides: Mapping[Resolution, int]
    pixels_a_token: int

    def __call__(self, resolution: Resolution, size: tuple[int, int]) -> Grid:
        """The layout, whatever the picture's size."""
        side = self.sides[resolution]
        tokens = side // self.pixels_a_token
        return Grid(side, side, tokens, tokens)

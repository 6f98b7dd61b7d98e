"""Windows of Big Buck Bunny, which comes with Kastor, each labelled with its act of the film.

A window is a segment of the one file, given by `videoMetadata`; no files are cut. Windows are held out in blocks, so
that a held-out window does not directly follow a training window.
"""

import json
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

WINDOW_S = 4
BORDER_S = 5  # left out at each end of an act, because the annotation is coarse
BLOCK = 3  # windows
EVERY = 3  # every third block is held out


@dataclass(frozen=True, slots=True)
class Window:
    """A segment of the film, in seconds, and its act."""

    start_s: int
    end_s: int
    act: str


def unpack_film(folder: Path) -> Path:
    """Write the bundled film into `folder`."""
    path = folder / "big_buck_bunny.mp4"
    path.write_bytes(resources.files("kastor.cli").joinpath("assets", path.name).read_bytes())
    return path


def credit() -> str:
    """The film's attribution and licence."""
    return str(_annotation()["credit"])


def film_windows() -> tuple[list[Window], list[Window]]:
    """The training windows and the held-out ones; both contain every act."""
    learnt: list[Window] = []
    held_out: list[Window] = []
    for act, span in _acts():
        begin, end = span[0] + BORDER_S, span[1] - BORDER_S
        for index in range((end - begin) // WINDOW_S):
            start = begin + index * WINDOW_S
            part = held_out if index // BLOCK % EVERY == EVERY - 1 else learnt
            part.append(Window(start, start + WINDOW_S, act))
    return learnt, held_out


def _acts() -> list[tuple[str, tuple[int, int]]]:
    """Each act with its time span; adjacent segments of an act are merged."""
    segments = [segment for segment in _annotation()["segments"] if segment["act"]]
    spans = []
    for act, group in groupby(segments, key=lambda segment: str(segment["act"])):
        held = list(group)
        spans.append((act, (int(held[0]["start"]), int(held[-1]["end"]))))
    return spans


def _annotation() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        resources.files("kastor.cli").joinpath("assets", "big_buck_bunny.json").read_text("utf-8")
    )
    return found

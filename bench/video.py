"""Tuning on videos: `python -m bench.video [--only PART] [--clips FOLDER]`. Some 20 minutes on two idle cores.

Everything runs as it does for users: a worker job on a dataset file, in a process of its own, with an empty feature
cache; figures come from the job's snapshots and from the processes. Parts:

    job         5 epochs on 12 films of 60 s of 1080p: what epochs 2 to 5 spend on decoding and on the tower, and the
                whole job against a loop with the same model, examples and training step that decodes and encodes each
                film whenever it is used (2 epochs are run and counted for 5). Frames are taken at `--fps`: the fewer a
                second of film, the more decoding weighs against training. The loop is run with a reader that decodes
                one frame after the other on all cores, which the bar is for, and with Kastor's own (`--readers`).
    second      time to the first step of a job whose data an earlier job has processed, with a warm worker, as on the
                server, and without one
    resolution  seconds per epoch at LOW and at MEDIUM
    memory      peak memory of the worker with 1,000 rows and with 10, the videos hard links of one

Films are made once (3 minutes) from the clips of a folder, or from moving noise.
"""

import argparse
import dataclasses
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.bars import Bar, at_least, at_most, report
from bench.films import Film, made
from bench.video_runs import READERS, Order
from kastor.settings import load_settings

QUESTION = "Which scene comes first?"
ANSWERS = ("a bird", "a street", "a machine")
NUM_FILMS, NUM_EPOCHS, BATCH = 12, 5, 4
LOOP_EPOCHS = 2  # that are run; the others take as long as the last
RESOLUTION_ROWS, RESOLUTION_FPS = 4, 0.4  # 25 frames a row: 6,600 tokens at MEDIUM, near the most
MEMORY_ROWS = (10, 1_000)
LARGE = Film(loops=1)
SMALL = Film(width=320, height=240, loops=1, bit_rate=200_000, preset="fast")

Seen = dict[str, Any]
"""What a process of `bench.video_runs` printed."""


class Place:
    """A folder with videos, rows about them, a cache without features, and what jobs leave."""

    def __init__(self, root: Path, models: Path) -> None:
        self.root = root
        (root / "videos").mkdir()
        (root / "cache").mkdir()
        (root / "cache" / "models").symlink_to(models)

    def films(self, film: Path, count: int) -> list[Path]:
        """So many videos of other content each that take as long to decode: a box that says nothing stands last."""
        found = []
        for number in range(count):
            path = self.root / "videos" / f"film{number}.mp4"
            shutil.copyfile(film, path)
            with path.open("ab") as file:
                file.write(struct.pack(">I4sI", 12, b"free", number))
            found.append(path)
        return found

    def links(self, film: Path, count: int) -> list[Path]:
        """So many names of one video."""
        first = self.root / "videos" / "linked.mp4"
        shutil.copyfile(film, first)
        found = []
        for number in range(count):
            path = self.root / "videos" / f"link{number}.mp4"
            path.hardlink_to(first)
            found.append(path)
        return found

    def rows(self, name: str, videos: list[Path], fps: float, resolution: str, end: str | None = None) -> Path:
        """The dataset's file: a question about each video."""
        metadata = {"fps": fps} | ({} if end is None else {"endOffset": end})
        lines = []
        for number, video in enumerate(videos):
            media = {"fileData": {"mimeType": "video/mp4", "fileUri": str(video)}, "videoMetadata": metadata}
            answer = {"role": "model", "parts": [{"text": ANSWERS[number % len(ANSWERS)]}]}
            contents = [{"role": "user", "parts": [media, {"text": QUESTION}]}, answer]
            wanted = {"mediaResolution": f"MEDIA_RESOLUTION_{resolution}"}
            lines.append(json.dumps({"contents": contents, "generationConfig": wanted}) + "\n")
        path = self.root / f"{name}.jsonl"
        path.write_text("".join(lines))
        return path

    def run(self, what: str, rows: Path, name: str, epochs: int, batch: int = BATCH, **more: Any) -> Seen:  # noqa: ANN401
        """What a process saw."""
        order = Order(what, str(self.root), str(rows), name, epochs, batch, time.time(), **more)
        command = [sys.executable, "-m", "bench.video_runs", json.dumps(dataclasses.asdict(order))]
        done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
        found: Seen = json.loads(done.stdout.splitlines()[-1])
        took = found["ended_at"] - found["asked_at"]
        print(f"  {name}: {took:.1f} s, {found['cpu_s']:.1f} CPU s, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        return found


def epochs_of(seen: Seen) -> dict[int, tuple[float, float]]:
    """When each epoch ended, and the seconds that its steps took."""
    found: dict[int, tuple[float, float]] = {}
    for step in seen["steps"]:
        _, so_far = found.get(step["epoch"], (0.0, 0.0))
        found[step["epoch"]] = (step["ended_at"], so_far + step["elapsed_s"])
    return found


def looking(seen: Seen) -> dict[int, tuple[float, int]]:
    """What each epoch spent on media: CPU seconds of decoders, and pictures sent through the tower.

    What was spent before the first step counts to the first epoch.
    """
    found, before, at = {}, 0.0, 0.0
    for epoch, (ended_at, _) in epochs_of(seen).items():
        spent = _by(seen["decoding"], ended_at)
        pictures = sum(count for when, count in seen["encoded"] if at < when <= ended_at)
        found[epoch] = (spent - before, pictures)
        before, at = spent, ended_at
    return found


def _by(watched: list[tuple[float, float]], when: float) -> float:
    """The most that had been spent by then."""
    return max((value for at, value in watched if at <= when), default=0.0)


def cpu_of(seen: Seen, epoch: int) -> float:
    """CPU seconds of the process in a later epoch."""
    ends = epochs_of(seen)
    return _by(seen["working"], ends[epoch][0]) - _by(seen["working"], ends[epoch - 1][0])


def whole_s(loop: Seen, measure: str) -> float:
    """What a loop would have taken for all epochs: its beginning, and its last epoch as often as is missing."""
    ran = epochs_of(loop)
    total = loop["ended_at"] - loop["asked_at"]
    share = loop["cpu_s"] / total if measure == "cpu" else 1.0  # it computes throughout
    return float((total + ran[max(ran)][1] * (NUM_EPOCHS - len(ran))) * share)


def _film(film: Film, given: argparse.Namespace) -> Path:
    """It, made if it is not there yet."""
    return made(film, load_settings().cache_dir, given.clips)


def job_part(place: Place, given: argparse.Namespace) -> tuple[list[Bar], Seen]:
    """Epochs, the whole job."""
    rows = place.rows("films", place.films(_film(LARGE, given), NUM_FILMS), given.fps, "LOW")
    first = place.run("job", rows, "first", NUM_EPOCHS)
    print(f"{NUM_FILMS} films of 60 s at {given.fps:g} frames a second, {first['decoders']} decoders")
    for epoch, (cpu_s, pictures) in looking(first).items():
        print(f"  epoch {epoch}: {epochs_of(first)[epoch][1]:6.1f} s, ", end="")
        print(f"decoders {cpu_s:5.1f} CPU s, tower {pictures:4} pictures")
    later = [spent for epoch, spent in looking(first).items() if epoch > 1]
    bars = [
        at_most("epochs 2 to 5, processor time of decoders", sum(cpu_s for cpu_s, _ in later), 0.0, " s"),
        at_most("epochs 2 to 5, pictures through the tower", sum(pictures for _, pictures in later), 0),
    ]
    took = first["ended_at"] - first["asked_at"]
    figures = {"first": first}
    for reader in filter(None, given.readers.split(",")):
        loop = figures[reader] = place.run("loop", rows, reader, NUM_EPOCHS, reader=reader, at_most=LOOP_EPOCHS)
        ratio, cpu_ratio = whole_s(loop, "wall") / took, whole_s(loop, "cpu") / first["cpu_s"]
        print(f"  job {took:.1f} s, loop ({reader}) {whole_s(loop, 'wall'):.1f} s: {ratio:.2f} times as fast, ", end="")
        print(f"{cpu_ratio:.2f} in processor time; the loop decoded {loop['decode_s']:.1f} s, ", end="")
        print(f"encoded {loop['encode_s']:.1f} s in {LOOP_EPOCHS} epochs")
        if reader == "sequential":
            bars.append(at_least("whole job, times as fast as the loop", ratio, 3.0))
    return bars, figures


def second_part(place: Place, given: argparse.Namespace) -> tuple[list[Bar], Seen]:
    """How soon a job begins whose data an earlier one has looked at."""
    small = _film(SMALL, given)
    rows = place.rows("seen", place.films(small, NUM_FILMS), given.fps, "LOW")
    place.run("job", rows, "first", 1)
    found = place.run("after", rows, "second", 1)
    fresh_s, spare_s = found["begun_s"]
    print(f"second job: first step begins after {spare_s:.1f} s, in a worker that is started for it {fresh_s:.1f} s")
    return [at_most("second job, until its first step begins", spare_s, 5.0, " s")], found


def resolution_part(place: Place, given: argparse.Namespace) -> tuple[list[Bar], Seen]:
    """LOW against MEDIUM; a job's second epoch counts."""
    videos, figures, took = place.films(_film(LARGE, given), RESOLUTION_ROWS), {}, {}
    for resolution in ("LOW", "MEDIUM"):
        rows = place.rows(resolution, videos, RESOLUTION_FPS, resolution)
        figures[resolution] = place.run("job", rows, resolution.lower(), 2, 2)
        took[resolution] = epochs_of(figures[resolution])[2][1]
        tokens = sum(step["tokens"] for step in figures[resolution]["steps"] if step["epoch"] == 2)
        cpu_s = cpu_of(figures[resolution], 2)
        print(f"{resolution}: {took[resolution]:.1f} s an epoch, {cpu_s:.1f} CPU s, {tokens} tokens")
    return [at_least("MEDIUM takes, times LOW an epoch", took["MEDIUM"] / took["LOW"], 3.5)], figures


def memory_part(place: Place, given: argparse.Namespace) -> tuple[list[Bar], Seen]:
    """Few rows against many."""
    small = _film(SMALL, given)
    videos, figures, peaks = place.links(small, max(MEMORY_ROWS)), {}, {}
    for count in MEMORY_ROWS:
        rows = place.rows(f"rows{count}", videos[:count], 1.0, "LOW", end="1s")
        figures[str(count)] = place.run("job", rows, f"rows{count}", 1, 8)
        peaks[count] = figures[str(count)]["peak_bytes"]
        print(f"{count} rows: peak {peaks[count] / 1e9:.2f} GB")
    few, many = MEMORY_ROWS
    return [at_most(f"peak memory with {many:,} rows, times that of {few}", peaks[many] / peaks[few], 1.5)], figures


Part = Callable[[Place, argparse.Namespace], tuple[list[Bar], Seen]]
PARTS: dict[str, Part] = {"job": job_part, "second": second_part, "resolution": resolution_part, "memory": memory_part}


def main() -> None:
    """Run the parts, print."""
    parser = argparse.ArgumentParser(
        prog="bench.video", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=tuple(PARTS), action="append", help="a part; may be repeated")
    parser.add_argument("--clips", type=Path, help="a folder of videos to make the films of")
    parser.add_argument("--fps", type=float, default=0.1, help="frames a second of film, for the parts job and second")
    parser.add_argument(
        "--readers", default="sequential,kastor", help="how loops decode (empty: no loop): " + ", ".join(READERS)
    )
    parser.add_argument("--json", type=Path, help="write all measurements there")
    given = parser.parse_args()
    cache = load_settings().cache_dir
    (cache / "bench").mkdir(parents=True, exist_ok=True)
    bars, figures = [], {}
    for name in given.only or PARTS:
        with tempfile.TemporaryDirectory(dir=cache / "bench") as folder:
            found, figures[name] = PARTS[name](Place(Path(folder), cache / "models"), given)
        bars += found
    sys.exit(report(bars, figures, given.json))


if __name__ == "__main__":
    main()

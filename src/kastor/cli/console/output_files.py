"""Files that a command writes to a path given by the user.

Before any work, `check_output_files` rejects a file that is also read or cannot be written. `replacing_file` then
writes it completely or not at all. Every option that names an output file uses both; a test finds options that do not.
"""

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import typer

from kastor.cli.console.dataset_input import STDIN
from kastor.domain.errors import ResourceExhausted
from kastor.runtime.storage_errors import NO_SPACE
from kastor.settings import FILE_VARIABLE, Settings

MAX_NAME_BYTES = 255
PathsByOption = Mapping[str, Path | None]
"""Files by the option or argument that names them; `None` if it was not given."""
OWN_STREAMS = (Path("/dev/stdout"), Path("/dev/stderr"))
STDIN_FILE = Path("/dev/stdin")  # names the file that stdin is redirected from


def check_output_files(outputs: PathsByOption, inputs: PathsByOption, settings: Settings) -> None:
    """Check that every output can be written and is not also read, through whichever links.

    Raises:
        typer.BadParameter: an output is also an input, another output or one of Kastor's files, or cannot be written.

    """
    given = {option: path for option, path in outputs.items() if path is not None}
    read = {name: STDIN_FILE if str(path) == STDIN else path for name, path in inputs.items() if path is not None}
    if settings.catalog_file is not None:
        read["the catalog file"] = settings.catalog_file
    if os.environ.get(FILE_VARIABLE):
        read["the settings"] = Path(os.environ[FILE_VARIABLE])
    for option, path in given.items():
        if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
            raise _refusal(option, f"the name of {path} is too long.")
        for name, other in read.items():
            if is_same_file(path, other):
                shown = "which is read as stdin" if other is STDIN_FILE else str(other)
                raise _refusal(option, f"{path} would overwrite {name}, {shown}; name another.")
        for name, folder in (("data", settings.data_dir), ("cache", settings.cache_dir)):
            if path.exists() and path.resolve().is_relative_to(folder.resolve()):
                raise _refusal(option, f"{path} is a file of Kastor's {name} folder; name another.")
        _check_writable(option, path)
        read[option] = path


def check_output_folder(option: str, folder: Path) -> None:
    """Check that files can be written into a folder, which need not exist yet.

    Raises:
        typer.BadParameter: they cannot.

    """
    if folder.exists() and not folder.is_dir():  # realpath of a pipe such as /dev/stdout names no file
        raise _refusal(option, f"{folder} cannot be written: it is not a folder.")
    place = Path(os.path.realpath(folder))
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise _refusal(option, f"{folder} cannot be written: {place} is not a folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise _refusal(option, f"{folder} cannot be written: no permission to write to {place}.")


def is_same_file(one: Path, other: Path) -> bool:
    """Whether both paths name the same file, directly or through symbolic or hard links."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one does not exist, so they are the same only if they resolve to the same path
        return Path(os.path.realpath(one)) == Path(os.path.realpath(other))


@contextmanager
def replacing_file(path: Path) -> Iterator[TextIO]:
    """A text file that replaces `path` when the block ends without an error.

    Missing folders are created. A symbolic link stays, and the file that it points to is replaced. A pipe or another
    file that is not regular is written to directly.

    Raises:
        ResourceExhausted: the disk is full; names the file.

    """
    try:
        with _temporary_file(path) as file:
            yield file
    except OSError as error:
        if error.errno not in NO_SPACE or error.filename is not None:
            raise
        raise ResourceExhausted(f"No space left for {path}; free some and try again.") from error


@contextmanager
def _temporary_file(path: Path) -> Iterator[TextIO]:
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
    descriptor, name = tempfile.mkstemp(prefix=".kastor-", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            yield file
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _check_writable(option: str, path: Path) -> None:
    if path.is_dir():
        raise _refusal(option, f"{path} is a folder; name a file in it.")
    if path.exists() and not path.is_file():  # written to directly; a regular file is replaced in its folder
        if not os.access(path, os.W_OK):
            raise _refusal(option, f"No permission to write to {path}.")
        return
    if any(is_same_file(path, stream) for stream in OWN_STREAMS):  # replacing it would lose what the command prints
        raise _refusal(option, f"{path} is where this command's own output goes; name another.")
    check_output_folder(option, Path(os.path.realpath(path)).parent)


def _refusal(option: str, message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint=option)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

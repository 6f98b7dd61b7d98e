"""Who else on this machine may read what an installation keeps: nobody. Folders are 0700 and files 0600.

New files get there by the umask of the processes (`private_umask`), and what an older release left behind is restricted
when a server starts (`restrict_data`). What a command writes for its user (exports, prepared datasets, reports) follows
the user's own umask.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PRIVATE_UMASK = 0o077
FOLDER_MODE = 0o700
FILE_MODE = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO
DATA_FOLDERS = ("jobs", "files", "logs")
CACHE_FOLDERS = ("media", "frames", "features")
"""Of the cache, what shows users' media; base models are no secret."""


@contextmanager
def private_umask() -> Iterator[None]:
    """In this block no file that this process makes can be read by other users of the machine."""
    before = os.umask(PRIVATE_UMASK)
    try:
        yield
    finally:
        os.umask(before)


def private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, if there is none; its parents are made as usual.

    Raises:
        OSError: it cannot be made.

    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(FOLDER_MODE, exist_ok=True)


def private_file(path: Path) -> None:
    """Make an empty file that only its owner may read, if there is none; restrict it, if there is one.

    Raises:
        OSError: it cannot be made.

    """
    path.touch(FILE_MODE)
    restrict(path)


def restrict_data(data_dir: Path, cache_dir: Path) -> None:
    """Close what an older release, or a command with another umask, left open.

    A folder is closed after what lies in it, so one that is closed need not be entered: later starts cost nothing.
    """
    for folder in (*(data_dir / name for name in DATA_FOLDERS), *(cache_dir / name for name in CACHE_FOLDERS)):
        if folder.parent == data_dir and _is_open(folder):
            for path, _, files in os.walk(folder, topdown=False):
                for name in files:
                    restrict(Path(path) / name)
                restrict(Path(path))
        restrict(folder)
    if not _is_shared(data_dir):
        restrict(data_dir)


def restrict(path: Path) -> None:
    """Take a file or folder from everybody but its owner, if it is ours and there; links are left alone."""
    with suppress(OSError):
        status = path.lstat()
        if status.st_mode & OTHERS and not stat.S_ISLNK(status.st_mode) and status.st_uid == os.geteuid():
            path.chmod(stat.S_IMODE(status.st_mode) & ~OTHERS)


def _is_open(path: Path) -> bool:
    try:
        return bool(path.lstat().st_mode & OTHERS) and not path.is_symlink()
    except OSError:
        return False


def _is_shared(folder: Path) -> bool:
    """Whether the folder is everybody's, such as /tmp, and closing it would take it from others."""
    try:
        return bool(folder.stat().st_mode & stat.S_ISVTX)
    except OSError:
        return True

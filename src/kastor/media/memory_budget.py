"""The memory that decoders of untrusted media may take together, whichever processes of a user start them.

Each child process may take `Guards.address_space_bytes`; only so many are at work at a time as fit half of the
machine's memory. A slot is a locked file: it is free again when its holder's process ends, however that ends.
"""

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from kastor.domain.errors import FailedPrecondition, Unavailable
from kastor.media.decode_limits import DecodeLimits

SHARE = 0.5  # of the machine's memory, or of what its control group may take
MIN_DECODERS = 2  # as one film is decoded while another is planned
MAX_DECODERS = 16
POLL_S = 0.02
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@contextmanager
def decoder_slot(guards: DecodeLimits) -> Iterator[None]:
    """A block in which one more child process decodes; waits while as many are at work as there is memory for.

    Raises:
        Unavailable: none has ended within `guards.slot_wait_s`.

    """
    folder = Path(guards.slots_folder) if guards.slots_folder else _own_folder()
    number = guards.max_decoders or num_decoders(memory_bytes(), guards.address_space_bytes)
    until = time.monotonic() + guards.slot_wait_s
    while (descriptor := _free_slot(folder, number)) is None:
        if time.monotonic() > until:
            raise Unavailable(
                f"All {number} decoders that this machine has memory for are at work on other media; try again later."
            )
        time.sleep(POLL_S)
    try:
        yield
    finally:
        os.close(descriptor)


def num_decoders(memory: int, each: int) -> int:
    """How many may be at work.

    >>> [num_decoders(gib << 30, 3 << 29) for gib in (2, 16, 512)]
    [2, 5, 16]
    """
    return max(MIN_DECODERS, min(MAX_DECODERS, int(memory * SHARE) // each))


def memory_bytes() -> int:
    """The memory that this process could have."""
    total = int(psutil.virtual_memory().total)
    try:
        return min(total, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no control groups, or no limit
        return total


def _free_slot(folder: Path, number: int) -> int | None:
    for slot in range(number):
        descriptor = os.open(folder / f"{slot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            return descriptor
    return None


def _own_folder() -> Path:
    """A folder of this user's alone, the same one for all of the user's processes.

    Anyone can take the name in the machine's place for temporary files first; then it is another place's.

    Raises:
        FailedPrecondition: no place has one that only this user can open.

    """
    runtime, home = os.environ.get("XDG_RUNTIME_DIR"), Path(os.path.expanduser("~"))  # noqa: PTH111  # which may raise
    places = [Path(tempfile.gettempdir()) / f".kastor-decoders-{os.geteuid()}"]
    places += [Path(runtime) / "kastor-decoders"] if runtime else []
    places += [home / ".cache" / "kastor-decoders"]
    for folder in places:
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_private(folder):
                return folder
    raise FailedPrecondition(
        "Decoders of media are counted in a folder that only this user can open (mode 0700), and none of these is or "
        f"can be made so: {', '.join(map(str, places))}. Remove what stands there."
    )


def _is_private(folder: Path) -> bool:
    found = folder.lstat()
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return is_own and not stat.S_IMODE(found.st_mode) & 0o077

"""What the child process gives up before it reads a single untrusted byte.

Standard library only: whatever is imported later is confined, too.
"""

import contextlib
import ctypes
import math
import os
import resource
import sys

from kastor.media.decode_limits import MIB, DecodeLimits

STDERR_BYTES = 1 * MIB
OPEN_FILES = 64
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
HARD_CPU_S = 24 * 3600


def apply_process_limits(guards: DecodeLimits) -> None:
    """Bound memory, written files and open files; give up new privileges and, where the kernel lets us, the network."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, STDERR_BYTES)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _limit(resource.RLIMIT_AS, guards.address_space_bytes)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        # a namespace without any interface; refused by some kernels, then the other walls stand. Root takes no user
        # namespace: in one it could no longer read the files of others that it was given
        libc.unshare(CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWUSER | CLONE_NEWNET)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def set_cpu_limit(seconds: float) -> None:
    """The process ends once it has used this much more processor time (SIGXCPU)."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (min(soft, HARD_CPU_S), HARD_CPU_S))


def _limit(which: int, value: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # already lower, or not known to this system
        resource.setrlimit(which, (value, value))

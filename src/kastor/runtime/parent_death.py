"""A child process that ends with its parent, however the parent ends: also by `kill -9`.

The parent keeps the write end of a pipe open and hands the read end to its children. When the parent is gone, the
kernel closes the write end, and a child that waits on the read end sees the end of the file.
"""

import os
import threading
from collections.abc import Callable


class ParentDeathPipe:
    """The parent's side; one serves any number of children.

    Start a child with `pass_fds=(lifeline.child_fd,)` and tell it the number.
    """

    def __init__(self) -> None:
        # neither end is inheritable (PEP 446); pass_fds makes an exception for the read end
        self.child_fd, self._parent_fd = os.pipe()
        self._open = True

    def close(self) -> None:
        """Let the children know; the same happens when this process ends."""
        if self._open:
            self._open = False
            os.close(self._parent_fd)
            os.close(self.child_fd)


def watch_parent(fd: int, on_gone: Callable[[], None]) -> None:
    """Call `on_gone`, in a thread of its own, once the parent that passed `fd` is gone.

    Nothing but ending the process is safe there: the main thread may be anywhere.

    Raises:
        OSError: `fd` is not open; the parent did not pass it.

    """
    os.fstat(fd)
    threading.Thread(target=_wait, args=(fd, on_gone), name="lifeline", daemon=True).start()


def _wait(fd: int, on_gone: Callable[[], None]) -> None:
    while os.read(fd, 1):
        pass  # nobody writes; a byte would say nothing
    on_gone()

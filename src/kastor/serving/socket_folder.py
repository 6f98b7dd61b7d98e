"""The folder of one server's sockets; folders that killed servers left are removed at the next start."""

import os
import tempfile
from pathlib import Path

from kastor.runtime.temporary_folder import TemporaryFolder

PREFIX = "kastor-run-"
SOCKET_PATH_BYTES = 100
"""The kernel allows 108 (macOS: 104), with the terminating zero."""
SHORT = Path("/tmp")  # noqa: S108  # for sockets only, in private folders


class SocketFolder(TemporaryFolder):
    """A private folder whose path is short enough for sockets, whatever TMPDIR is; `close` removes it."""

    def __init__(self) -> None:
        longest = Path(tempfile.gettempdir()) / f"{PREFIX}12345678" / "999999.sock"
        super().__init__(PREFIX, SHORT if len(os.fsencode(longest)) > SOCKET_PATH_BYTES else None)

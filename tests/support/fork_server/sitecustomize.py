"""Hands `python -m kastor.worker` and the like, where a test starts it, to the fork server.

Python imports a module of this name as it starts; the PYTHONPATH of the tests leads to this one. Where their
configuration has named a fork server, a process
that would import torch is served by a fork of one that has imported it already (`forked_process`).
"""

import os
import sys

if "FORK_SERVERS" in os.environ and sys.orig_argv[1:2] == ["-m"]:
    import forked_process

    if sys.orig_argv[2] in forked_process.GROUPS:
        forked_process.run(os.environ["FORK_SERVERS"], sys.orig_argv[2], sys.orig_argv[3:])

"""Hands `python -m kastor.worker` and the like, where a test starts it, to a fork server.

Python imports a module of this name as it starts; the PYTHONPATH of the tests leads to this one. Where their
configuration has started fork servers, a process that would import much is served by a fork of one that has imported it
already (`forked_process`).
"""

import os
import sys

from fork_groups import group_of

if "FORK_SERVERS" in os.environ and len(sys.orig_argv) > 2:
    group = group_of(*sys.orig_argv[1:3])
    if group is not None:
        from forked_process import run

        run(f"{os.environ['FORK_SERVERS']}/{group}", *sys.orig_argv[1:3], sys.orig_argv[3:])

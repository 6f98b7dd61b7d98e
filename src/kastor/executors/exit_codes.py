"""Exit codes by which a worker's process tells the local executor why it ended; 0: the job's end is written."""

import os

STOPPED = os.EX_TEMPFAIL  # 75: ended on request, after a checkpoint
SUPERSEDED = 76  # another attempt owns the job
DATABASE_UNREACHABLE = os.EX_UNAVAILABLE  # 69: the database could not be used for too long

"""One job's process: `python -m kastor.worker JOB_ID ATTEMPT`. Prepares, trains, publishes, and writes the job's end.

It owns the job as long as its attempt is the job's; every write says so, and one that was superseded ends without a
word. Exit code 0: the end is written. 75: stopped in order, a checkpoint is kept. 76: superseded. Anything else is a
death. `sql_lease` is light and starts beating before `run` loads torch, which can take longer than a heartbeat may.
"""

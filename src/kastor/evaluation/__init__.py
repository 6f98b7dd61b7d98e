"""How good answers are: metrics of tasks as pure functions, and what they are compared with.

The metrics know neither models nor files; only `looked_at` loads a vision tower, and `probing` runs it in a process
of its own.
"""

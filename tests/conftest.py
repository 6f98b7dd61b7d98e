"""Makes `tests/` importable, so that `from tiny import tiny_base` works in every test (import mode "prepend")."""

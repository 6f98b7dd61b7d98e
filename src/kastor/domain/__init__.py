"""Values and rules of tuning; standard library only, no I/O."""

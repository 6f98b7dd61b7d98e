"""Training objectives: what the loop minimises over packed rows."""

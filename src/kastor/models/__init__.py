"""Which bases exist, where their weights come from, how text becomes tokens."""

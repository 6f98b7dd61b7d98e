"""Dataset validation: every rule, the ledger of rows, statistics and reports."""

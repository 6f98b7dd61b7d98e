"""The dataset gate: every rule, the ledger of rows, statistics and reports."""

"""Generation from a base and its adapters, and the client of the process that does it."""

"""The command line's client of a Kastor server."""

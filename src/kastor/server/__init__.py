"""The HTTP server process: composition, listener, limits of connections."""

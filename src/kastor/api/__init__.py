"""The wire: Google's dialects over HTTP. Nothing below this package knows HTTP."""

"""Kastor: self-hosted supervised tuning on open models, on the wire of Google's tuning APIs."""

__version__ = "0.1.0"

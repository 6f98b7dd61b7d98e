"""Kastor's own API under `/kastor`: jobs with rows, events and logs."""

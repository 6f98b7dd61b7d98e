"""Evaluation of answers: parsing them for the metrics, and a linear probe as a baseline.

Only `linear_probe_main` loads a vision tower; `linear_probe_client` runs it in its own process.
"""

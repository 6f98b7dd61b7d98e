"""Inspection of the media that a dataset names, and how each was sampled."""

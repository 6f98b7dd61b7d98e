"""Comparisons and measurements; not shipped."""

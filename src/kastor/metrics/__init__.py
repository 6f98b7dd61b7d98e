"""Metrics of answers: pure arithmetic that knows neither models nor files."""

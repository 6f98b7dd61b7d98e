"""Timestamps in texts: finding them, and rewriting them when a video is cut."""

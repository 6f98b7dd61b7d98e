"""What both of Google's dialects share."""

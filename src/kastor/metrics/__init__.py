"""Pure arithmetic: what an answer is worth."""

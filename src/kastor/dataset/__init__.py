"""From dataset bytes to checked examples; no torch."""

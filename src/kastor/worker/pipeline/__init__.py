"""From dataset rows to training examples: validation, frames, vision features."""

"""The built-in engine: continuous batching, key-value cache, many LoRA adapters at once."""

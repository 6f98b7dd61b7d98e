"""Inputs, masks and layers of the language model."""

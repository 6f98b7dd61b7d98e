"""Conversations as tokens: templates, tools, tokenizers. One renderer serves training and generation."""

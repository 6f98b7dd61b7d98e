"""The Gemini API: tunedModels, files, permissions, operations."""

"""The Gemini API over gRPC, transcoded to the HTTP routes."""

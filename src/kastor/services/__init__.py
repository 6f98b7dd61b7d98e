"""What the API can do, apart from any dialect of it."""

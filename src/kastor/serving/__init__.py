"""Generation: one base, many adapters, many answers side by side. No HTTP server here; that is `kastor.engine`."""

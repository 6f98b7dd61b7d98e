"""Terminal output: tables, progress, charts, options."""

"""HTTP for every dialect: routing, JSON, errors, streaming, uploads."""

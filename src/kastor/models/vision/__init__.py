"""Vision encoders: preprocessing, token grids, features and projectors."""

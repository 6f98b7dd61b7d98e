"""What is kept: SQL rows and blobs. The only place that speaks SQL."""

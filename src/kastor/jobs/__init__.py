"""Use cases of tuning jobs, and the scheduler that runs them."""

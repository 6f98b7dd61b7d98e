"""Training: packing, loss, objectives, the loop and its checkpoints. It knows neither SQL nor HTTP."""

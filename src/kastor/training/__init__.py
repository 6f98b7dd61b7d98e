"""The training loop; knows neither SQL nor HTTP."""

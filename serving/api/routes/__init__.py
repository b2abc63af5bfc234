"""One module for each thing the API speaks of."""

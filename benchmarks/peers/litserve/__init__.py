"""The service behind LitServe: workers as processes, FastAPI processes before them."""

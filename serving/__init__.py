"""Long-running processes: embedded servers and their supervisor, the stream worker, the API."""

"""Evidence: load tests over the network and peers side by side."""

"""The published leave-one-out protocol for next-item models, on any file of sequences."""

"""Ours and other ways to serve the same weights and features, asked in turns on one machine."""

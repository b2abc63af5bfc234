"""Smaller weights and vectors: what a bundle may give up in precision, and how it is read back."""

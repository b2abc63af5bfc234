"""Smaller bundles: made, measured beside the one they come from, refused when they lose much."""

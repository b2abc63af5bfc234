"""Skew between what was served and what training would have seen, feature by feature."""

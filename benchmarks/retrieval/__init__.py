"""Exact, filtered and approximate search of a large catalogue."""

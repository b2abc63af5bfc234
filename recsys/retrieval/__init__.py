"""Narrow: candidate sources and their fusion."""

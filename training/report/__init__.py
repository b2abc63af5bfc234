"""Judging a bundle on the part of the log it did not learn from, and the report of it."""

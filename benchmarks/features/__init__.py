"""Benchmarks of the feature platform: joins, reads, writes, streams."""

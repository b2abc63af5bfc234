"""All benchmarks of ``make bench``: which there are, and how their results are kept."""

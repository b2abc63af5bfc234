"""Kernels beside plain references, held against committed ratios: ``make bench-smoke``."""

"""The service of a day's work: FastAPI, Feast's SDK, torch and faiss in one process.

It serves the weights of one of our bundles, so that its answers can be held beside ours; everything
around them is done the usual way. What it was given for free: the weights, the encoding of users
and the split of the ranker into parts of users and of items.
"""

HNSW_FROM_ITEMS = 200_000
"""Smaller catalogues are searched whole."""

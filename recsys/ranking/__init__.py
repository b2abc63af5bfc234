"""Order: filters, blending of objectives, re-ranking."""

"""The service behind BentoML: worker processes, and one before them that puts requests together."""

"""What we ship: the immutable directory a request is served from."""

"""What ``recsys answer`` says by its exit code; apart, since the API imports it without torch."""

NOT_FOUND = 3
"""No log has an answer of that id."""

"""What it meant: what was shown, and later what came of it."""

"""Forgetting a user: everything that is known goes, everywhere, and does not come back."""

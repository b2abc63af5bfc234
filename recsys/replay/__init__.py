"""A past answer computed again from its exposure and its bundle, and what made its scores."""

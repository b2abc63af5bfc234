"""Cost as items, candidates, history, features, users, events and requests grow: one axis each."""

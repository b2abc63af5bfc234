"""Feast's own universal integration tests, put to both of our plug-ins (``make verify-feast``)."""

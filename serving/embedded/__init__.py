"""Embedded servers: how each is found or fetched, started and asked whether it is ready.

One module per server. Each gives a :class:`~serving.embedded.launch.Launch`; who runs it (the
supervisor, a test session) is not their business.
"""

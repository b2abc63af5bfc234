"""The gRPC twin of the HTTP API: one schema, one set of handlers, two ways to call them.

``schema`` makes protobuf messages of the types in ``recsys/wire/`` and
``recsys/events/schema.py``; ``recsys.proto`` is the same as text, for clients in other languages.
``convert`` goes between the two, ``client`` calls the service from Python with the very types of
the HTTP client.
"""

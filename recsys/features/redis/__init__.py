"""Talking to Redis: one server or a cluster, blocking or on an event loop, over TLS or not.

``address.py`` reads ``REDIS_URL``, ``commands.py`` packs requests, ``replies.py`` parses answers,
``routing.py`` decides which node is sent what. These four do no input or output, so the blocking
``client.py`` and its twin ``async_client.py`` are the same code but for their sockets.
"""

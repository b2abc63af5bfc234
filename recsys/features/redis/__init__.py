"""Talking to Redis: one server or a cluster, blocking or on an event loop, over TLS or not.

``address.py`` reads ``REDIS_URL``, ``commands.py`` packs requests, ``replies.py`` parses answers
(``regular_rows.py`` those whose rows all look alike), ``routing.py`` decides which node is sent
what, ``greeting.py`` says what a connection begins with. These do no input or output, so the
blocking ``client.py`` (over ``connection.py``) and its twin ``async_client.py`` are the same code
but for their sockets.
"""

"""Who may do what: keys and tokens, their scopes, how often, and what must not be written down.

``scopes`` says what there is to be allowed; ``keys`` and ``key_file`` are the keys and where they
rest; ``authenticator`` tells who calls. ``listening`` decides whether callers must say who they
are.
"""

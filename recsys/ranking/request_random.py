"""Chance that can be told again: a generator that depends on the user and the request alone."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def request_random(user_id: str, request_id: str) -> np.random.Generator:
    """Give the generator of one request: the same on every machine and in every process.

    Both identities go in with their length, so that ``("a", "bc")`` is not ``("ab", "c")``.

    >>> float(request_random("ann", "r-1").random())
    0.5981004958052745
    """
    user = user_id.encode()
    digest = blake2b(len(user).to_bytes(4, "big") + user + request_id.encode(), digest_size=16)
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest.digest(), "big")))

"""What surrounds a request (the tab, the device) as tokens beside those of the user's profile.

NumPy only: the API makes them from the request it answers, training from what the log says of each
list. A bundle names the keys it learned; others travel to the exposure log and are not looked at.

Axes: ``B`` requests, ``R`` keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recsys.features.batch import Int64s
from recsys.features.names import token_hash

REQUEST_TOKENS = "request_tokens"
"""Name of the tensor."""


def request_tokens(contexts: Sequence[Mapping[str, str]], keys: Sequence[str]) -> Int64s:
    """Give ``[B, R]`` hashes of ``key=value``, 0 where a context does not have the key."""
    tokens = np.zeros((len(contexts), len(keys)), dtype=np.int64)
    for row, context in enumerate(contexts):
        for column, key in enumerate(keys):
            if key in context:
                tokens[row, column] = token_hash(f"{key}={context[key]}")
    return tokens

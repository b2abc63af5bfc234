"""A run's name: a hash of what it learns from, the same in every process.

Not of a pickle's bytes: those differ between processes (the order of a set of texts is drawn anew
in each) and with which equal objects happen to be the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath

import numpy as np
from pydantic import BaseModel
from torch import Tensor


def identity_of(*values: object) -> str:
    """Give twelve hex digits over ``values``, equal for equal ones.

    Raises:
        TypeError: when there is something in them whose content this does not know how to read.
    """
    sha = hashlib.sha256()
    for value in values:
        _feed(sha, value)
    return sha.hexdigest()[:12]


def _feed(sha: hashlib._Hash, value: object) -> None:
    sha.update(f"{type(value).__qualname__}(".encode())
    if value is None or isinstance(value, (bool, int, float, str, PurePath, np.generic)):
        sha.update(repr(value).encode())
    elif isinstance(value, Tensor):
        _feed(sha, value.detach().cpu().contiguous().numpy())
    elif isinstance(value, np.ndarray):
        sha.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, BaseModel):
        _feed(sha, value.model_dump())
    elif is_dataclass(value):
        for field in fields(value):
            sha.update(field.name.encode())
            _feed(sha, getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            _feed(sha, key)
            _feed(sha, value[key])
    elif isinstance(value, (tuple, list)):
        for each in value:
            _feed(sha, each)
    else:
        raise TypeError(f"a run's name cannot be made of {type(value).__qualname__}: {value!r:.80}")
    sha.update(b")")

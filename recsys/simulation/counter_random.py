"""Random numbers without state: a draw is a function of its name.

A draw is named by integers, for example (seed, "click", user, request, item). Whoever asks for the
same name gets the same number, in any order, in any batch and in any process. That is what makes
the stream independent of where it is started, and what gives every policy the same luck with the
same user, item and request (common random numbers).

The name is hashed one integer at a time with the finaliser of SplitMix64, vectorised over arrays.
NumPy's Philox is counter-based as well and draws the numbers that belong to a whole chunk, but it
needs a Python object per name, which is too slow for one name per user, item and request.

Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np
import numpy.typing as npt

State = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_GOLDEN = np.array([0x9E3779B97F4A7C15], dtype=np.uint64)
_MUL1 = np.array([0xBF58476D1CE4E5B9], dtype=np.uint64)
_MUL2 = np.array([0x94D049BB133111EB], dtype=np.uint64)
_S11, _S27, _S30, _S31 = (np.array([bits], dtype=np.uint64) for bits in (11, 27, 30, 31))
_ONE = np.array([1], dtype=np.uint64)
_SCALE = 2.0**-53


class Stream(IntEnum):
    """First part of a name: what the draw is for. Numbers are part of the world; never reuse."""

    USER = 1
    DRIFT = 2
    STAPLE = 3
    SIGN_UP = 4
    ARRIVAL = 5
    SESSION = 6
    CANDIDATE = 7
    ESTIMATE = 8
    GUMBEL = 9
    EXAMINE = 10
    CLICK = 11
    ITEM_TEXT = 12
    TABLE = 13
    REQUEST = 14
    ACTIVITY = 15


def root(seed: int, stream: Stream) -> State:
    """Give the state every name of ``stream`` starts from, shape [1]."""
    digest = hashlib.blake2b(f"{seed}/{int(stream)}".encode(), digest_size=8).digest()
    return np.frombuffer(digest, dtype=np.uint64).copy()


def text_key(text: str) -> int:
    """Give a 63-bit integer that stands for ``text`` in a name."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def fold(state: State, value: npt.ArrayLike) -> State:
    """Append one integer to a name; shapes broadcast, the result has at least one axis."""
    z = np.atleast_1d(np.asarray(value)).astype(np.uint64)
    z = z + _ONE
    z *= _GOLDEN
    z = z + state
    z ^= z >> _S30
    z *= _MUL1
    z ^= z >> _S27
    z *= _MUL2
    z ^= z >> _S31
    return z


def uniform(state: State) -> Floats:
    """Turn finished names into numbers strictly between 0 and 1 (53 bits)."""
    out = (state >> _S11).astype(np.float64)
    out += 0.5
    out *= _SCALE
    return out


def normal(state: State, size: int) -> Floats:
    """Give ``size`` (even) standard normals per name on a new last axis (Box and Muller)."""
    half = size // 2
    radius = np.sqrt(-2.0 * np.log(uniform(fold(state[..., None], np.arange(half)))))
    angle = 2.0 * np.pi * uniform(fold(state[..., None], np.arange(half, size)))
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def gumbel(state: State) -> Floats:
    """Turn finished names into standard Gumbel numbers."""
    return np.asarray(-np.log(-np.log(uniform(state))))


def table_generator(seed: int, *name: int) -> np.random.Generator:
    """Give NumPy's Philox for numbers drawn in one go: the item table, arrivals of a chunk."""
    digest = hashlib.blake2b(repr((seed, *name)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))

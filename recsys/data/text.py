"""Texts as bags of hashed words: no vocabulary to keep, no model to download, new words welcome."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import mmh3
import numpy as np

from recsys.features.batch import Int64s

_WORD = re.compile(r"[^\W_]+", re.UNICODE)


def words_of(text: str) -> list[str]:
    """Give the lower-case words of ``text`` in order, then its pairs of neighbouring words.

    >>> words_of("Hanging HEART, t-light")
    ['hanging', 'heart', 't', 'light', 'hanging heart', 'heart t', 't light']
    """
    words = _WORD.findall(text.lower())
    return [*words, *(f"{a} {b}" for a, b in pairwise(words))]


def word_buckets(texts: Sequence[str], *, num_buckets: int, num_words: int) -> Int64s:
    """Give ``[len(texts), num_words]`` buckets 1 … ``num_buckets`` of each text's first words.

    0 pads. Distinct words may share a bucket; that is the price of having no vocabulary.
    """
    out = np.zeros((len(texts), num_words), dtype=np.int64)
    for row, text in enumerate(texts):
        buckets = [
            mmh3.hash(word, signed=False) % num_buckets + 1 for word in words_of(text)[:num_words]
        ]
        out[row, : len(buckets)] = buckets
    return out

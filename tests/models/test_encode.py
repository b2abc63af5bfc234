"""Encoding: what a request carries, and its edges."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from recsys.errors import FeatureError
from recsys.features.batch import Ragged, UserFeatures
from recsys.models.encode import UserEncoding, encode_users
from recsys.models.signature import Dimensions, user_context

ENCODING = UserEncoding(
    history_length=3, num_tokens=2, user_activity=("a", "b"), num_categories=2,
    user_category_activity=("x",),
)  # fmt: skip
NOW = 1_700_000_000_000


def ragged(dtype, *rows) -> Ragged:
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    return Ragged(np.array([v for row in rows for v in row], dtype=dtype), offsets)


ROWS = ("as_of_ms", "known", "activity", "category_activity")
RAGGED = ("token_hashes", "history_index", "history_count", "history_last_ms")


def only(several: Ragged, row: int) -> Ragged:
    values = several.row(row)
    return Ragged(values, np.array([0, len(values)]))


def users(histories: list[list[int]], tokens: list[list[int]] | None = None) -> UserFeatures:
    size = len(histories)
    return UserFeatures(
        as_of_ms=np.full(size, NOW, dtype=np.int64),
        known=np.array([bool(h) for h in histories]),
        token_hashes=ragged(np.int64, *(tokens or [[]] * size)),
        activity=np.zeros((size, 2), dtype=np.float32),
        history_index=ragged(np.int32, *histories),
        history_count=ragged(np.float32, *[[float(i) for i in h] for h in histories]),
        history_last_ms=ragged(np.int64, *[[NOW - 1000 * i for i in h] for h in histories]),
        category_activity=np.zeros((size, 2, 1), dtype=np.float32),
    )


def test_newest_item_is_last_and_long_histories_lose_their_oldest() -> None:
    found = encode_users(users([[5], [], [4, 3, 2, 1]]), ENCODING)
    assert found["history_index"].tolist() == [[0, 0, 5], [0, 0, 0], [3, 2, 1]]
    assert found["history_count"].tolist() == [[0, 0, 5], [0, 0, 0], [3, 2, 1]]
    assert found["history_age_s"].tolist() == [[0, 0, 5], [0, 0, 0], [3, 2, 1]]


def test_tokens_are_cut_and_padded() -> None:
    found = encode_users(users([[], []], tokens=[[7, 8, 9], []]), ENCODING)
    assert found["user_tokens"].tolist() == [[7, 8], [0, 0]]


def test_many_users_are_encoded_like_few() -> None:
    few = users([[5], [], [4, 3, 2, 1]], tokens=[[7, 8, 9], [], [3]])
    many = users([[5], [], [4, 3, 2, 1]] * 9, tokens=[[7, 8, 9], [], [3]] * 9)
    alone = encode_users(few, ENCODING)
    for name, found in encode_users(many, ENCODING).items():
        np.testing.assert_array_equal(found, np.concatenate([alone[name]] * 9))


def test_one_user_is_encoded_like_several_to_the_bit() -> None:
    rng = np.random.default_rng(5)
    both = users([[], [4, 3, 2, 1]], tokens=[[7, 8, 9], []])
    for as_of_ms in rng.integers(0, 4_000_000_000_000, 500):
        moment = np.full(2, as_of_ms)
        moved = replace(both, as_of_ms=moment, activity=rng.random((2, 2), dtype=np.float32))
        together = encode_users(moved, ENCODING)
        for row in (0, 1):
            one = replace(
                moved,
                **{name: getattr(moved, name)[row : row + 1] for name in ROWS},
                **{name: only(getattr(moved, name), row) for name in RAGGED},
            )
            for name, found in encode_users(one, ENCODING).items():
                assert found.dtype == together[name].dtype
                assert found.tobytes() == together[name][row : row + 1].tobytes(), name


def test_the_cold_start_is_unknown_with_the_longest_silence() -> None:
    found = encode_users(users([[], [1]]), ENCODING)["user_dense"]
    names = list(ENCODING.dense_names)
    assert found[:, names.index("is_known")].tolist() == [0.0, 1.0]
    silence = found[:, names.index("seconds_since_last_interaction")]
    assert silence[0] > 1e8 and silence[1] == 1.0


def test_no_users_give_empty_tensors() -> None:
    found = encode_users(users([]), ENCODING)
    assert {len(values) for values in found.values()} == {0}


def test_shapes_and_types_are_those_of_the_signature() -> None:
    dimensions = Dimensions(
        history_length=3, num_tokens=2, num_user_features=len(ENCODING.dense_names),
        num_categories=2, num_category_features=1, num_item_features=1, objectives=("buy",),
        sources=("popular",),
    )  # fmt: skip
    types = {"INT32": np.int32, "INT64": np.int64, "FP32": np.float32}
    found = encode_users(users([[1], [2, 3]]), ENCODING)
    specs = user_context(dimensions)
    assert set(found) == {spec.name for spec in specs}
    for spec in specs:
        assert found[spec.name].dtype == types[spec.dtype]
        assert found[spec.name].shape == (2, *spec.shape)


def test_other_columns_than_the_bundle_wants_are_refused() -> None:
    other = UserEncoding(
        history_length=3, num_tokens=2, user_activity=("a",), num_categories=2,
        user_category_activity=("x",),
    )  # fmt: skip
    with pytest.raises(FeatureError, match="user_activity has shape"):
        encode_users(users([[1]]), other)


def test_encoding_and_manifests_need_no_torch() -> None:
    code = (
        "import sys, recsys.models.encode, recsys.bundle.manifest, recsys.bundle.store;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

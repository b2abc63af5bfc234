"""A logged context in another bundle's rows and columns is what encoding for that bundle gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.vocabulary import Vocabulary
from recsys.errors import FeatureError
from recsys.features.history import UserHistory
from recsys.feedback.carry_over import carried, carry_over, is_context_of
from recsys.feedback.logging_bundles import LoggingBundle
from recsys.models.encode import UserEncoding, encode_users
from tests.bundle.test_bundle import small_plan
from training.debug_bundle import DEBUG_END_MS, made_up_log

LOG = made_up_log()
PLAN = small_plan()
ITEMS = tuple(f"item-{n}" for n in range(80))
CATEGORIES = ("bag", "basket", "bowl", "candle", "clock", "frame", "lantern", "mug")
USERS = [*(f"user-{n}" for n in range(20)), "nobody"]
MOMENTS = np.array([DEBUG_END_MS - n * 3_600_000 for n in range(len(USERS))], dtype=np.int64)


def bundle(
    items: tuple[str, ...] = ITEMS, categories: tuple[str, ...] = CATEGORIES, **changes: object
) -> LoggingBundle:
    encoding = UserEncoding(
        history_length=12, num_tokens=3, user_activity=PLAN.user_activity_names,
        num_categories=len(categories),
        user_category_activity=PLAN.user_category_activity_names,
    )  # fmt: skip
    return LoggingBundle(
        bundle_id="b" * 16, plan_schema_hash=PLAN.schema_hash,
        vocabulary=Vocabulary(items, categories), encoding=replace(encoding, **changes),
    )  # fmt: skip


def served(by: LoggingBundle) -> dict[str, np.ndarray]:
    """Give what the API gives a bundle for ``USERS`` at ``MOMENTS``."""
    features = UserHistory(LOG, PLAN, by.vocabulary).features_at(USERS, MOMENTS)
    return encode_users(features, by.encoding)


def between(logged: LoggingBundle, here: LoggingBundle) -> dict[str, np.ndarray]:
    return carried(served(logged), carry_over(logged, here.vocabulary, here.encoding))


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_the_same_bundle_gives_the_same_bits() -> None:
    wanted = served(bundle())
    assert (wanted["history_index"] != 0).sum() > 50 and wanted["user_category"].any()
    assert_same(between(bundle(), bundle()), wanted)


def test_another_order_of_items_and_categories_is_what_that_bundle_would_have_been_given() -> None:
    here = bundle(ITEMS[::-1], CATEGORIES[3:] + CATEGORIES[:3])
    assert_same(between(bundle(), here), served(here))


@pytest.mark.parametrize("shorter", [1, 5])
def test_a_shorter_history_keeps_the_newest_and_fewer_tokens_the_first(shorter: int) -> None:
    here = bundle(history_length=shorter, num_tokens=1)
    found = between(bundle(), here)
    assert_same(found, served(here))
    assert found["user_tokens"].all(axis=1).sum() == len(USERS) - 1  # all but nobody


def test_a_longer_history_is_padded_on_the_left() -> None:
    found, wanted = between(bundle(), bundle(history_length=20, num_tokens=5)), served(bundle())
    assert not found["history_index"][:, :8].any() and not found["user_tokens"][:, 3:].any()
    np.testing.assert_array_equal(found["history_age_s"][:, 8:], wanted["history_age_s"])


def test_items_and_categories_unknown_here_are_left_out_and_the_rest_moves_up() -> None:
    """What that bundle would have been given, since nobody here has more than twelve items."""
    logged = bundle(history_length=64)
    here = bundle(ITEMS[::2], CATEGORIES[1:-1], history_length=12)
    assert (served(logged)["history_index"][:, -1] % 2 == 0).any()
    found, wanted = between(logged, here), served(here)
    # Seconds since the last interaction: as logged, with the item that is unknown here.
    found.pop("user_dense"), wanted.pop("user_dense")
    assert_same(found, wanted)


def test_a_category_the_logging_bundle_did_not_know_has_zeros() -> None:
    found = between(bundle(categories=CATEGORIES[1:]), bundle())
    assert not found["user_category"][:, 0].any()
    np.testing.assert_array_equal(
        found["user_category"][:, 1:], served(bundle())["user_category"][:, 1:]
    )


def test_columns_go_by_name_and_one_that_was_not_logged_is_refused() -> None:
    fewer = bundle(
        user_activity=("interactions_30d",), user_category_activity=("interactions_30d",)
    )
    found, wanted = carried(
        served(bundle()), carry_over(bundle(), fewer.vocabulary, fewer.encoding)
    ), served(bundle())  # fmt: skip
    np.testing.assert_array_equal(found["user_dense"], wanted["user_dense"][:, 1:])
    np.testing.assert_array_equal(found["user_category"], wanted["user_category"][..., 1:])
    for there, name in (
        (replace(fewer, encoding=replace(bundle().encoding, user_activity=())),
         "user_activity:interactions_7d, user_activity:interactions_30d"),
        (replace(bundle(), encoding=replace(bundle().encoding, user_category_activity=("x",))),
         "user_category_activity:interactions_7d, user_category_activity:interactions_30d"),
    ):  # fmt: skip
        with pytest.raises(FeatureError, match=rf"wanted {name} .*bundle b{{16}}.*--?|joined"):
            carry_over(there, bundle().vocabulary, bundle().encoding)


@given(st.data())
def test_history_is_that_of_a_plain_loop(data: st.DataObject) -> None:
    width, length = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    known = data.draw(st.lists(st.booleans(), min_size=6, max_size=6))
    used = data.draw(st.lists(st.integers(1, 6), max_size=width, unique=True))
    row = np.zeros((1, width), dtype=np.int32)
    row[0, width - len(used) :] = used
    theirs = bundle(tuple("abcdef"), ())
    ours = bundle(tuple(i for i, k in zip("abcdef", known, strict=True) if k) or ("z",), ())
    theirs = replace(theirs, encoding=replace(theirs.encoding, history_length=width))
    ours = replace(ours, encoding=replace(ours.encoding, history_length=length))
    logged = {
        "history_index": row,
        "history_count": (row * 10).astype(np.float32),
        "history_age_s": (row * 100).astype(np.float32),
        "user_tokens": np.zeros((1, 3), dtype=np.int64),
        "user_dense": np.zeros((1, 8), dtype=np.float32),
        "user_category": np.zeros((1, 0, 2), dtype=np.float32),
    }
    assert is_context_of(theirs, logged)
    found = carried(logged, carry_over(theirs, ours.vocabulary, ours.encoding))
    kept = [r for r in used if known[r - 1]][-length:]
    ids = ours.vocabulary.ids(found["history_index"][0].tolist())
    assert ids == ["abcdef"[r - 1] for r in kept]
    padding = [0] * (length - len(kept))
    assert found["history_count"][0].tolist() == [*padding, *(10 * r for r in kept)]
    assert found["history_age_s"][0].tolist() == [*padding, *(100 * r for r in kept)]


def test_tensors_of_another_bundle_are_told_from_ones_own() -> None:
    one = {name: values[:1] for name, values in served(bundle()).items()}
    assert is_context_of(bundle(), one)
    assert not is_context_of(bundle(history_length=13), one)
    assert not is_context_of(bundle(), one | {"history_index": one["history_index"] + 80})
    assert not is_context_of(bundle(), one | {"history_index": one["history_index"] - 100})
    assert not is_context_of(bundle(), one | {"user_dense": one["user_dense"].astype(np.int32)})
    assert not is_context_of(bundle(), {n: v for n, v in one.items() if n != "user_dense"})

"""Shown lists with what was known of their users as it was logged when the lists were answered.

An impression names the request that its list answered; the exposure of that request holds the
tensors the model was given. They are carried over into this run's rows and columns
(``recsys/feedback/carry_over.py``). Lists for which that cannot be done are left out and counted
by reason. The moving features of items are not in an exposure: they are joined, as of the moment
the serving table was of.

Axes: ``E`` lists that are learned from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.clock import DAY_MS
from recsys.data.impressions import ShownLists
from recsys.data.splits import TimeSplit
from recsys.data.vocabulary import Vocabulary
from recsys.errors import InputError
from recsys.features.audit.tensors import shapes_of
from recsys.features.batch import Int64s
from recsys.feedback.carry_over import CarryOver, Tensors, carried, carry_over, is_context_of
from recsys.feedback.exposure_lookup import LoggedExposures, tensors_of
from recsys.feedback.logging_bundles import LoggingBundle, logging_bundles
from recsys.models.encode import UserEncoding
from training.examples.identity import identity_of_log
from training.shown_lists import drawn

MAX_LEAD_MS = DAY_MS
"""An answer is looked for this long before the ranker's part: lists are shown soon after it."""


class LeftOut(StrEnum):
    """Why a list is not learned from."""

    NO_REQUEST_ID = "no request id"
    NO_EXPOSURE = "no exposure"
    """Dropped, not written yet, expired, or answered by another system."""
    ANOTHER_USER = "answered to another user"
    NO_FEATURES = "answered without features"
    BUNDLE_GONE = "bundle gone"
    SHOWN_BEFORE_FEATURES = "shown before its features"
    """By a clock that is wrong: such a list might have its own labels among its features."""
    UNREADABLE = "features unreadable"
    """Not the tensors its bundle makes."""


@dataclass(frozen=True, kw_only=True)
class LoggedLists:
    """Lists to learn from, each with its user as logged."""

    lists: ShownLists
    row: Int64s
    """``[E]`` of ``lists``."""
    context: dict[str, NDArray[Any]]
    """``[E, ...]`` tensors of ``signature.user_context``, in this run's rows and columns."""
    as_of_ms: Int64s
    """``[E]`` the moment the features speak of."""
    item_moment_ms: Int64s
    """``[E]`` the moment the serving table of items was of; before the list was shown."""
    identity: str
    """Hash of the exposures that were read."""
    left_out: dict[str, int]
    """Lists by reason (``LeftOut``)."""
    num_repeated: int
    """Exposures that were there once more."""
    positions: dict[str, int]
    """``topic:partition`` to the offset after the last exposure read."""
    other_plans: tuple[str, ...]
    """Bundles of other feature declarations: their columns are taken by name."""


def read_logged_lists(
    exposures: LoggedExposures,
    lists: ShownLists,
    usable: Int64s,
    *,
    split: TimeSplit,
    vocabulary: Vocabulary,
    encoding: UserEncoding,
    plan_schema_hash: str,
    max_lists: int,
    rng: np.random.Generator,
) -> LoggedLists:
    """Match the ``usable`` rows of ``lists`` with their exposures and read at most ``max_lists``.

    Raises:
        FeatureError: when a bundle did not log a feature that this run wants.
        InputError: when no list has features; says what became of them.
    """
    matched, num_repeated = _matched(exposures, lists, usable, split)
    bundles = logging_bundles(exposures.bundle_dir, matched["bundle"].drop_nulls().unique())
    matched = matched.with_columns(_reason(list(bundles)))
    reasons = matched["reason"].drop_nulls().value_counts().iter_rows()
    left_out: dict[str, int] = dict(sorted(reasons))
    found = matched.filter(pl.col("reason").is_null())
    how = {
        bundle: carry_over(bundles[bundle], vocabulary, encoding)
        for bundle in found["bundle"].unique().sort()
    }
    chosen = drawn(np.arange(len(found), dtype=np.int64), max_lists, rng)
    read = exposures.with_features(found[chosen])
    context, is_whole = _contexts(read, bundles, how)
    if not is_whole.all():
        left_out[str(LeftOut.UNREADABLE)] = int((~is_whole).sum())
    read = read.filter(pl.Series(is_whole))
    if read.is_empty():
        raise _nothing(len(usable), left_out)
    as_of_ms = read["features_as_of_ms"].to_numpy()
    age_ms = read["item_features_age_ms"].fill_null(0).clip(0).to_numpy()
    row = read["list"].to_numpy()
    return LoggedLists(
        lists=lists,
        row=row,
        context=context,
        as_of_ms=as_of_ms,
        item_moment_ms=np.minimum(read["now_ms"].to_numpy() - age_ms, lists.time_ms[row] - 1),
        identity=identity_of_log(read.drop("topic", "partition", "offset")),
        left_out=left_out,
        num_repeated=num_repeated,
        positions={
            f"{topic}:{partition}": offset + 1
            for topic, partition, offset in read.group_by("topic", "partition")
            .agg(pl.col("offset").max())
            .sort("topic", "partition")
            .iter_rows()
        },
        other_plans=tuple(
            bundle for bundle in how if bundles[bundle].plan_schema_hash != plan_schema_hash
        ),
    )


def _matched(
    exposures: LoggedExposures, lists: ShownLists, usable: Int64s, split: TimeSplit
) -> tuple[pl.DataFrame, int]:
    """Give a row for each usable list, in order, with its exposure's narrow columns or nulls."""
    table = pl.DataFrame(
        {
            "list": usable,
            "request_id": lists.request_id[usable].tolist(),
            "shown_to": lists.user_id[usable].tolist(),
            "shown_ms": lists.time_ms[usable],
        },
        schema_overrides={"request_id": pl.String, "shown_to": pl.String},
    )
    found, num_repeated = exposures.of_requests(
        table["request_id"].drop_nulls().unique().to_list(),
        start_ms=max(split.ranker_from_ms - MAX_LEAD_MS, 0),
        end_ms=split.test_from_ms,
    )
    return table.join(found, on="request_id", how="left", maintain_order="left"), num_repeated


def _reason(bundles: list[str]) -> pl.Expr:
    """Give the column ``reason``: the first that holds, null for a list to learn from."""
    reasons = (
        (LeftOut.NO_REQUEST_ID, pl.col("request_id").is_null()),
        (LeftOut.NO_EXPOSURE, pl.col("offset").is_null()),
        (LeftOut.ANOTHER_USER, pl.col("user_id") != pl.col("shown_to")),
        (LeftOut.NO_FEATURES, pl.col("features_as_of_ms").is_null()),
        (LeftOut.SHOWN_BEFORE_FEATURES, pl.col("shown_ms") < pl.col("features_as_of_ms")),
        (LeftOut.BUNDLE_GONE, ~pl.col("bundle").is_in(bundles)),
    )
    found = pl.coalesce(
        *(pl.when(holds).then(pl.lit(str(reason))) for reason, holds in reasons)
    )  # fmt: skip
    return found.alias("reason")


def _contexts(
    read: pl.DataFrame, bundles: Mapping[str, LoggingBundle], how: Mapping[str, CarryOver]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """Give the tensors of the rows that can be read, in order, and which those are."""
    logged = [tensors_of(features) for features in read["features"]]
    names = read["bundle"].to_list()
    is_whole = np.array(
        [
            tensors is not None and is_context_of(bundles[name], tensors)
            for tensors, name in zip(logged, names, strict=True)
        ],
        dtype=np.bool_,
    )
    place = np.cumsum(is_whole) - 1
    context: dict[str, NDArray[Any]] = {}
    for name, to_here in how.items():
        rows = [row for row in np.flatnonzero(is_whole).tolist() if names[row] == name]
        if not rows:
            continue
        stacked = {
            tensor: np.concatenate([_part(logged[row], tensor) for row in rows])
            for tensor in shapes_of(bundles[name].encoding)
        }
        for tensor, values in carried(stacked, to_here).items():
            if tensor not in context:
                shape = (int(is_whole.sum()), *values.shape[1:])
                context[tensor] = np.zeros(shape, dtype=values.dtype)
            context[tensor][place[rows]] = values
    return context, is_whole


def _part(tensors: Tensors | None, name: str) -> NDArray[Any]:
    assert tensors is not None
    return tensors[name]


def _nothing(num_lists: int, left_out: Mapping[str, int]) -> InputError:
    counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    return InputError(
        f"wanted shown lists with their users' features as logged at serving, found none: of "
        f"{num_lists} lists in the ranker's part {counts or 'there is none'}. Impressions must "
        "carry the request_id of their answer, the exposure worker must have written it (`recsys "
        "up` starts it, `recsys log ls` shows what there is), and the bundle that answered must "
        "still be in the store; or train with --features joined"
    )

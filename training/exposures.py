"""What was shown, place by place, with what was known of user and item just before.

For logs in which every exposure is on record: each list's user features and each place's item
features are joined for the last millisecond before the list was shown, so nothing needs a grid of
moments as retrieved candidates do (``questions.py``).

Axes: ``L`` lists, ``C`` places, ``O`` objectives, ``X`` cross features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys.data.catalogue import Catalogue
from recsys.data.impressions import LabelRule, ShownLists, read_shown_lists
from recsys.errors import InputError
from recsys.features.batch import Bools, Int64s
from recsys.features.history import ItemHistory, UserHistory, open_rows
from recsys.features.plan import Plan
from recsys.models.config import Aspect
from recsys.models.cross_features import cross_features, usual_prices
from recsys.models.encode import UserEncoding, encode_users
from recsys.models.item_table import ItemStatics, ItemTable
from recsys.models.request_tokens import REQUEST_TOKENS, request_tokens
from recsys.models.serving_model import Candidates
from recsys.models.signature import Dimensions
from recsys.models.taste import taste_of
from training.item_statics import item_statics
from training.prepared import Context
from training.progress import Progress
from training.ranker_steps import RANKER_INPUTS
from training.shapes import dimensions_of, encoding_of

_CHUNK = 2048


@dataclass(frozen=True, kw_only=True)
class Exposures:
    """Lists in time order; all fields have the axis of lists first."""

    user: Tensor
    """``[L]`` int64 code of the user."""
    time_ms: Tensor
    context: Context
    """``[L, ...]`` user tensors, with ``request_tokens`` where keys were asked for."""
    item: Tensor
    """``[L, C]`` int64, 0 pads."""
    position: Tensor
    """``[L, C]`` int64 displayed place, -1 pads."""
    label: Tensor
    """``[L, C, O]`` float32."""
    activity: Tensor
    """``[L, C, Fi]`` of each item just before."""
    cross: Tensor
    """``[L, C, X]`` raw."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: Tensor) -> Exposures:
        """Give some of the lists."""
        taken = {f.name: getattr(self, f.name) for f in fields(self)}
        context: Context = taken.pop("context")
        return Exposures(
            context={name: values[rows] for name, values in context.items()},
            **{name: values[rows] for name, values in taken.items()},
        )


@dataclass(frozen=True, kw_only=True)
class ExposureData:
    """Everything that a ranker is trained and judged on."""

    exposures: Exposures
    lists: ShownLists
    """The same lists as they were read."""
    statics: ItemStatics
    dimensions: Dimensions


def read_exposures(
    log: pl.DataFrame,
    catalogue: Catalogue,
    plan: Plan,
    rules: Sequence[LabelRule],
    *,
    attribution_ms: int,
    history_length: int,
    num_tokens: int,
    request_keys: Sequence[str] = (),
    num_item_tokens: int,
    content_size: int = 0,
    aspects: Sequence[Aspect] = (),
    taste_counts: tuple[int, int] | None = None,
    has_id: Bools,
    progress: Progress,
) -> ExposureData:
    """Join everything.

    Args:
        log: Events.
        catalogue: Of the log.
        plan: Features.
        rules: What counts as a label of each objective.
        attribution_ms: For acts that name no request.
        history_length: H.
        num_tokens: Profile tokens of a user.
        request_keys: Keys of the impressions' context that become tokens beside the profile's.
        num_item_tokens: Tokens of an item.
        content_size: Width of the vectors items are compared by, 0 for none.
        aspects: Sides they are compared from.
        taste_counts: As in ``RankerConfig``, wanted by ``aspects``.
        has_id: ``[N + 1]``: items with an embedding of their own.
        progress: Told of the stages.

    Raises:
        InputError: when nothing was shown, or an objective has one class only.
    """
    vocabulary = catalogue.vocabulary
    with progress.stage("lists and labels"):
        lists = read_shown_lists(log, vocabulary, rules, window_ms=attribution_ms)
        _check_labels(lists, rules)
    statics = item_statics(
        catalogue, num_item_tokens=num_item_tokens, content_size=content_size, aspects=aspects,
        has_id=has_id,
    )  # fmt: skip
    encoding = encoding_of(plan, vocabulary, history_length=history_length, num_tokens=num_tokens)
    dimensions = dimensions_of(
        encoding, plan, objectives=[rule.objective for rule in rules], sources=(),
        num_request_tokens=len(request_keys),
    )  # fmt: skip
    with progress.stage("feature history"):
        rows = open_rows(log, plan)
        users = UserHistory(rows, plan, vocabulary)
        items = ItemHistory(rows, plan, vocabulary)
    joined = _joined(
        lists, users, items, encoding, ItemTable(statics), aspects, taste_counts, progress
    )
    context = {name: joined[name] for name in RANKER_INPUTS}
    if request_keys:
        every = [lists.said(row) for row in range(len(lists.user_id))]
        context[REQUEST_TOKENS] = torch.from_numpy(request_tokens(every, request_keys))
    code = np.unique(lists.user_id.astype(str), return_inverse=True)[1].astype(np.int64)
    exposures = Exposures(
        user=torch.from_numpy(code),
        time_ms=torch.from_numpy(lists.time_ms),
        context=context,
        item=torch.from_numpy(lists.item).long(),
        position=torch.from_numpy(lists.position).long(),
        label=torch.from_numpy(lists.label),
        activity=joined["activity"],
        cross=joined["cross"],
    )
    return ExposureData(exposures=exposures, lists=lists, statics=statics, dimensions=dimensions)


def _joined(
    lists: ShownLists,
    users: UserHistory,
    items: ItemHistory,
    encoding: UserEncoding,
    table: ItemTable,
    aspects: Sequence[Aspect],
    taste_counts: tuple[int, int] | None,
    progress: Progress,
) -> dict[str, Tensor]:
    """Give each list's ``RANKER_INPUTS``, ``cross`` and ``activity`` as of just before it."""
    parts: list[Mapping[str, Tensor]] = []
    for begin in progress.track(range(0, len(lists.user_id), _CHUNK), "features of exposures"):
        part = slice(begin, begin + _CHUNK)
        moment = lists.time_ms[part] - 1
        found = encode_users(users.features_at(list(lists.user_id[part]), moment), encoding)
        user = {name: torch.from_numpy(values) for name, values in found.items()}
        item = torch.from_numpy(lists.item[part])
        nothing = torch.zeros(*item.shape, 0)
        taste = None
        if aspects:
            assert taste_counts is not None
            counts = _counts_of_history(items, user["history_index"], moment, taste_counts)
            taste = taste_of(table.aspects, user, counts)
        cross = cross_features(
            table, user, Candidates(item, nothing), usual_prices(table, user), aspects, taste
        )
        flat = items.activity_of_pairs(
            lists.item[part].reshape(-1), np.repeat(moment, lists.item.shape[1])
        )
        activity = torch.from_numpy(flat).view(*item.shape, -1)
        parts.append({**{n: user[n] for n in RANKER_INPUTS}, "cross": cross, "activity": activity})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def with_meetings(log: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Add an interaction of type ``kind`` for each item shown, at the time it was shown.

    A user's history is made of interactions: with these it also holds what was seen and left, with
    a count of one, beside what was seen and taken, with a higher one.
    """
    shown = log.filter(pl.col("kind") == "impression").explode("items")
    met = shown.with_columns(
        kind=pl.lit("interaction"),
        event_id=pl.concat_str(
            pl.lit("met-"), "event_id", pl.lit("-"), pl.int_range(pl.len()).over("event_id")
        ),
        item_id="items", type=pl.lit(kind), value=pl.lit(1.0),
        items=pl.lit(None, pl.List(pl.String)),
    )  # fmt: skip
    out = pl.concat([log, met.select(log.columns)]).sort("event_time_ms", maintain_order=True)
    return out.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("offset"))


def _counts_of_history(
    items: ItemHistory, history: Tensor, moments_ms: Int64s, columns: tuple[int, int]
) -> Tensor:
    """Give ``[L, H, 2]`` counts of the items of ``[L, H]`` histories as they were at moments."""
    counts = torch.zeros(*history.shape, 2)
    row, place = history.nonzero(as_tuple=True)
    found = items.activity_of_pairs(history[row, place].numpy(), moments_ms[row.numpy()])
    counts[row, place] = torch.from_numpy(found[:, list(columns)])
    return counts


def _check_labels(lists: ShownLists, rules: Sequence[LabelRule]) -> None:
    is_item = lists.item > 0
    num_shown = int(is_item.sum())
    if not num_shown:
        raise InputError("the log shows no item of the vocabulary; replay impressions first")
    for column, rule in enumerate(rules):
        positives = int(lists.label[..., column][is_item].sum())
        if not 0 < positives < num_shown:
            raise InputError(
                f'objective "{rule.objective}": wanted labels of both classes, found {positives} '
                f'"{rule.interaction}" for {num_shown} shown items; correct [[objectives]] in the '
                "mapping or leave the objective out"
            )

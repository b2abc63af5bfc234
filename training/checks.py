"""What is looked at before any training time is spent; each refusal says what to do.

Axes: ``E`` examples, ``N`` items, ``O`` objectives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import polars as pl
import torch
from torch import Tensor

from recsys.bundle.manifest import Objective
from recsys.data.interactions import Interactions
from recsys.data.splits import TimeSplit
from recsys.data.vocabulary import Vocabulary
from recsys.errors import BundleError, ConfigurationError, FeatureError, InputError
from recsys.features import names
from recsys.features.plan import Plan
from recsys.models.encode import UserEncoding
from recsys.models.request_tokens import REQUEST_TOKENS

_USER_VIEWS = (names.USER_ACTIVITY, names.USER_HISTORY, names.USER_CATEGORY_ACTIVITY)
_SERVICE_VIEWS: dict[str, tuple[str, ...]] = {
    "retrieval_v1": _USER_VIEWS,
    "ranking_v1": (*_USER_VIEWS, names.ITEM_ACTIVITY),
}
"""Feature services a bundle is served with, and the views whose every column its models read."""


def check_services(plan: Plan) -> None:
    """Refuse a plan whose services lack what the models read: serving could not give it.

    Raises:
        FeatureError: naming service and features.
    """
    for service, views in _SERVICE_VIEWS.items():
        if service not in plan.services:
            raise FeatureError(
                f'wanted feature service "{service}", found {", ".join(plan.services) or "none"}; '
                "declare it in feature_repo and run `recsys features apply`"
            )
        there = plan.services[service]
        absent = [
            f"{view}:{feature}"
            for view in views
            for feature in plan.view(view).feature_names
            if f"{view}:{feature}" not in there
        ]
        if absent:
            raise FeatureError(
                f'feature service "{service}" lacks {", ".join(absent)} (found '
                f"{', '.join(there) or 'nothing'}); add the view to it in feature_repo and run "
                "`recsys features apply`"
            )


def check_feature_source(source: str, log: pl.DataFrame, *, has_exposures: bool) -> None:
    """Refuse logged features where the data cannot have any.

    Raises:
        InputError: saying what the data are.
    """
    if source != "logged":
        return
    if not has_exposures:
        raise InputError(
            "features as logged at serving: wanted the exposure log beside the events, found the "
            "files of a data set, which nobody was served from; train from the event log without "
            "--from-files, or with --features joined"
        )
    if not bool((log["kind"] == "impression").any()):
        raise InputError(
            "features as logged at serving: wanted impressions, which name the answers that were "
            f"shown, found none among {len(log)} events; send an impression with the request_id of "
            "each answer (docs/events.md), or train with --features joined"
        )


def check_objectives(past: Interactions, objectives: Sequence[Objective]) -> None:
    """Refuse objectives that nothing before the test speaks of.

    Raises:
        ConfigurationError: when there is none.
        InputError: when one has no positive.
    """
    if not objectives:
        raise ConfigurationError("wanted at least one objective in the mapping, found none")
    for objective in objectives:
        rows = past.of_type(objective.interaction, min_value=objective.min_value)
        if not rows.any():
            least = "" if objective.min_value is None else f" of at least {objective.min_value:g}"
            raise InputError(
                f'objective "{objective.name}": no "{objective.interaction}" event{least} before '
                f"the test (found types {', '.join(past.types) or 'none'}); correct [[objectives]] "
                "in the mapping or replay more history"
            )


def check_windows(interactions: Interactions, split: TimeSplit) -> None:
    """Refuse a split that leaves a part of training without an interaction.

    Raises:
        InputError: naming the part and what the data span.
    """
    for what, begin, end in (
        ("the towers learn from", split.begin_ms, split.ranker_from_ms),
        ("the ranker's labels come from", split.ranker_from_ms, split.test_from_ms),
    ):
        inside = (interactions.time_ms >= begin) & (interactions.time_ms < end)
        if not inside.any():
            raise InputError(
                f"the time window {what}, {_date(begin)} to {_date(end)}, has no interaction "
                f"(found {len(interactions)} from {_date(int(interactions.time_ms.min()))} to "
                f"{_date(int(interactions.time_ms.max()))}); give another --test-from, another "
                "ranker.span_ms in the recipe, or replay more history"
            )


def check_classes(objective: str, num_positive: float, num_all: float) -> None:
    """Refuse a label that says the same of every example: nothing can be learned from it.

    Raises:
        InputError: naming the objective and what its examples say.
    """
    if 0 < num_positive < num_all:
        return
    found = "none is positive" if num_positive == 0 else "all are positive"
    raise InputError(
        f'objective "{objective}": wanted positive and negative examples in the ranker\'s part, '
        f"found that {found} of {num_all:.0f}; choose another interaction or min_value in the "
        "mapping, or a longer ranker.span_ms"
    )


def check_request_keys(contexts: Sequence[Mapping[str, Tensor]], keys: Sequence[str]) -> None:
    """Refuse keys of requests that no list of the log says: nothing of them could be learned.

    Args:
        contexts: Of lists, with ``request_tokens`` ``[E, R]`` in those that were shown.
        keys: R.

    Raises:
        InputError: naming them.
    """
    if not keys:
        return
    told = [context[REQUEST_TOKENS] for context in contexts if REQUEST_TOKENS in context]
    is_said = torch.cat(told).ne(0).any(dim=0).tolist() if told else [False] * len(keys)
    unsaid = [key for key, said in zip(keys, is_said, strict=True) if not said]
    if unsaid:
        raise InputError(
            f"request_keys: wanted shown lists whose context says {', '.join(unsaid)}, found none "
            f"among {sum(len(one) for one in told)} of the ranker's part; send impressions with "
            "the context of their requests, or leave the keys out of the recipe"
        )


def check_finite(tensors: Mapping[str, Tensor], encoding: UserEncoding, what: str) -> None:
    """Refuse features that are NaN or infinite.

    Args:
        tensors: ``[E, ...]`` each, as ``encode_users`` names them.
        encoding: Says which column is which.
        what: Of whom the features are.

    Raises:
        InputError: naming the columns, how many rows and the first of them.
    """
    for name, values in tensors.items():
        if not values.is_floating_point() or bool(torch.isfinite(values.sum())):
            continue
        bad = ~torch.isfinite(values)
        if not bad.any():
            continue  # finite numbers whose sum is not
        rows = bad.flatten(1).any(dim=1).nonzero().flatten()
        columns = _columns(name, bad, encoding)
        raise InputError(
            f"features of {what}: wanted finite numbers, found NaN or infinity in {columns} of "
            f"{len(rows)} of {len(values)} rows (the first is row {int(rows[0])}, value "
            f"{float(values[bad][0])}); look at `value` and `price` in the event log with "
            "`recsys data check`, or take the column out of the view"
        )


def check_columns_finite(values: Tensor, columns: Iterable[str], what: str) -> None:
    """Refuse ``[E, F]`` with NaN or infinity, naming the columns.

    Raises:
        InputError: as ``check_finite``.
    """
    bad = ~torch.isfinite(values)
    if bad.any():
        named = [c for c, b in zip(columns, bad.any(dim=0).tolist(), strict=True) if b]
        raise InputError(
            f"features of {what}: wanted finite numbers, found NaN or infinity in "
            f"{', '.join(named)} of {int(bad.any(dim=1).sum())} of {len(values)} rows; look at "
            "`value` and `price` in the event log, or take the column out of the view"
        )


def vocabulary_hash(vocabulary: Vocabulary) -> str:
    """Give sixteen hex digits over all identities and their order."""
    sha = hashlib.sha256()
    for part in (*vocabulary.item_ids, "", *vocabulary.categories):
        sha.update(part.encode() + b"\0")
    return sha.hexdigest()[:16]


def check_vocabulary(wanted: Vocabulary, found: Vocabulary, where: str) -> None:
    """Refuse rows numbered by another vocabulary: each would mean another item.

    Raises:
        BundleError: saying how much the two have in common.
    """
    if wanted == found:
        return
    ours, theirs = set(wanted.item_ids), set(found.item_ids)
    both = len(ours & theirs)
    example = next(iter(sorted(theirs - ours)), None)
    told = "" if example is None else f", {example!r} for one is unknown here"
    raise BundleError(
        f"{where}: wanted the vocabulary of this log ({len(ours)} items), found another with "
        f"{len(theirs)} items of which {both} are the same{told}; it was made from another data "
        "set or another state of it: train on the data it came from, or without it"
    )


def _columns(name: str, bad: Tensor, encoding: UserEncoding) -> str:
    if name == "user_dense":
        which = bad.flatten(2).any(dim=2) if bad.dim() > 2 else bad
        named = [
            c for c, b in zip(encoding.dense_names, which.any(dim=0).tolist(), strict=True) if b
        ]
    elif name == "user_category":
        which = bad.any(dim=0).any(dim=0)
        named = [
            c for c, b in zip(encoding.user_category_activity, which.tolist(), strict=True) if b
        ]
    else:
        named = []
    return f"{name} ({', '.join(named)})" if named else name


def _date(moment_ms: int) -> str:
    return f"{datetime.fromtimestamp(moment_ms / 1000, UTC):%Y-%m-%d %H:%M}"

"""A past answer beside what its exposure and its bundle give today, part by part.

A part that cannot be computed again says why; the others are compared all the same. ``equal`` means
equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from recsys.bundle.manifest import Manifest, read_manifest
from recsys.bundle.served import ServedBundle, load_served_bundle
from recsys.bundle.store import BundleStore
from recsys.bundle.triton_repository import TritonModelConfig
from recsys.errors import BundleError, ConfigurationError, ServerError
from recsys.events.item_follower import ItemChange
from recsys.features.plan import PLAN_FILE
from recsys.features.plan import load as load_plan
from recsys.feedback.exposure import Exposure
from recsys.inference.threads import torch_threads
from recsys.models.signature import CREATED_KEYS
from recsys.ranking.blending import blend
from recsys.ranking.rules_history import read_rules_version
from recsys.replay.explained import add_contributions
from recsys.replay.kept import MAX_KEPT, OBJECTIVE_SCORE, SOURCE_SCORE
from recsys.replay.listed import list_again
from recsys.replay.scores import Scored, missing, past_inputs, score_again
from recsys.settings import Settings
from recsys.wire import (
    RankRequest,
    RecommendRequest,
    ReplayedItem,
    ReplayPart,
    ReplayResponse,
)

_Part = Literal["sources", "objectives", "scores", "list", "propensities"]
_PARTS: tuple[_Part, ...] = ("sources", "objectives", "scores", "list", "propensities")
_REQUESTS: dict[str, type[RecommendRequest | RankRequest]] = {
    "recommendations": RecommendRequest, "rank": RankRequest,
}  # fmt: skip


def _nothing_since(manifest: Manifest) -> Sequence[ItemChange]:
    return ()


def replay(
    settings: Settings,
    exposure: Exposure,
    *,
    with_contributions: bool = False,
    changes_since: Callable[[Manifest], Sequence[ItemChange]] = _nothing_since,
) -> ReplayResponse:
    """Compute an answer again and compare; never raises for what is missing.

    ``changes_since`` gives what the log had said of items by then, since a bundle was made.
    """
    with torch_threads(TritonModelConfig().num_threads):  # last bits depend on it
        return _replay(settings, exposure, with_contributions, changes_since)


def _replay(
    settings: Settings,
    exposure: Exposure,
    with_contributions: bool,
    changes_since: Callable[[Manifest], Sequence[ItemChange]],
) -> ReplayResponse:
    parts: dict[_Part, ReplayPart] = {}
    items = [
        ReplayedItem(item_id=item_id, position=place, logged_score=score)
        for place, (item_id, score) in enumerate(
            zip(exposure.item_ids, exposure.scores, strict=True)
        )
    ]
    try:
        folder = BundleStore(settings.bundle_dir).path(exposure.bundle)
        bundle = load_served_bundle(folder)
        known = bundle.vocabulary.indexes(exposure.item_ids)
        num_known = int(np.argmin(known != 0)) if (known == 0).any() else len(known)
        rows = known[:num_known]
        manifest = read_manifest(folder)
        reason = missing(exposure, manifest)
        if reason:
            parts |= _not_computed(reason, "sources", "objectives", "scores")
        elif num_known:
            index = torch.from_numpy(rows[:MAX_KEPT].astype(np.int64))
            past = past_inputs(exposure, folder, index, changes_since(manifest))
            scored = score_again(past, _asked(exposure, bundle))
            parts |= _compare_scores(exposure, bundle, scored)
            items = _with_scores(items, bundle, scored, exposure)
            if with_contributions:
                items = add_contributions(items, bundle, past, load_plan(folder / PLAN_FILE))
        if exposure.route == "recommendations" and CREATED_KEYS in exposure.replay:
            parts |= _not_computed(reason, "list", "propensities")
        elif exposure.route == "recommendations":
            parts |= _compare_list(settings, exposure, bundle, rows)
    except (BundleError, ServerError, OSError) as error:
        left = [name for name in _PARTS if name not in parts]
        parts |= _not_computed(str(error), *left)
    ordered = [parts[name] for name in _PARTS if name in parts]
    return ReplayResponse(
        request_id=exposure.request_id,
        user_id=exposure.user_id,
        route=exposure.route,
        now_ms=exposure.now_ms,
        bundle=exposure.bundle,
        rung=exposure.rung,
        policy=exposure.policy,
        rules=exposure.rules,
        degraded=exposure.degraded,
        equal=all(part.outcome == "equal" for part in ordered),
        different=any(part.outcome == "different" for part in ordered),
        parts=ordered,
        items=items,
    )


def _asked(exposure: Exposure, bundle: ServedBundle) -> torch.Tensor | None:
    """Give the rows of the items that were to be put in order, as they went to the model."""
    if exposure.route != "rank":
        return None
    request = msgspec.json.decode(exposure.request, type=RankRequest)
    rows = bundle.vocabulary.indexes(dict.fromkeys(request.item_ids))
    return torch.from_numpy(rows[rows != 0].astype(np.int64))


def _compare_scores(
    exposure: Exposure, bundle: ServedBundle, scored: Scored
) -> dict[_Part, ReplayPart]:
    """Compare the scores of the shown items whose features are kept."""
    kept, count = exposure.replay, len(scored.score)
    logged = np.array(exposure.scores[:count], dtype=np.float32)
    found: dict[_Part, tuple[NDArray[Any], NDArray[Any]]] = {
        "sources": (kept[SOURCE_SCORE].array(), scored.source_score.numpy()),
        "objectives": (kept[OBJECTIVE_SCORE].array(), scored.objective_score.numpy()),
        "scores": (logged, _blended(exposure, bundle, scored)),
    }
    said = ""
    if len(exposure.item_ids) > MAX_KEPT:
        said = f"of the first {MAX_KEPT} items: the features of more are not kept"
    return {name: _compared(name, *pair, said) for name, pair in found.items()}


def _blended(exposure: Exposure, bundle: ServedBundle, scored: Scored) -> NDArray[np.float32]:
    request = msgspec.json.decode(exposure.request, type=_REQUESTS[exposure.route])
    if not request.objective_weights:
        return scored.score.numpy()
    objectives = bundle.dimensions.objectives
    return blend(scored.objective_score.numpy(), objectives, request.objective_weights)


def _compare_list(
    settings: Settings, exposure: Exposure, bundle: ServedBundle, rows: NDArray[np.int32]
) -> dict[_Part, ReplayPart]:
    try:
        operator = read_rules_version(settings.rules_history_dir, exposure.rules)
        again = list_again(exposure, bundle, rows, operator)
    except ConfigurationError as error:
        return _not_computed(str(error), "list", "propensities")
    chosen = again.ranked.item_index
    same = np.array_equal(chosen, rows)
    detail = ""
    if not same:
        ids = [bundle.vocabulary.item_ids[row - 1] for row in chosen.tolist()]
        place = next(
            (n for n, pair in enumerate(zip(ids, exposure.item_ids, strict=False))
             if pair[0] != pair[1]), min(len(ids), len(exposure.item_ids)),
        )  # fmt: skip
        detail = f"from position {place} on: {', '.join(ids[place : place + 10])}"
    listed = ReplayPart(name="list", outcome="equal" if same else "different", detail=detail)
    if not exposure.propensities:
        return {"list": listed}
    logged = np.array(exposure.propensities)
    return {
        "list": listed,
        "propensities": _compared("propensities", logged, np.asarray(again.propensities), ""),
    }


def _compared(name: _Part, logged: NDArray[Any], again: NDArray[Any], said: str) -> ReplayPart:
    if logged.shape != again.shape:
        detail = f"wanted shape {logged.shape}, found {again.shape}"
        return ReplayPart(name=name, outcome="different", detail=detail)
    difference = np.abs(logged.astype(np.float64) - again.astype(np.float64))
    largest = float(difference.max(initial=0.0))
    equal = logged.astype(again.dtype).tobytes() == again.tobytes()
    return ReplayPart(
        name=name,
        outcome="equal" if equal else "different",
        max_abs_diff=largest,
        num_different=int((logged != again).sum()),
        num_compared=logged.size,
        detail=said,
    )


def _not_computed(reason: str, *names: _Part) -> dict[_Part, ReplayPart]:
    return {name: ReplayPart(name=name, outcome="not_recomputed", detail=reason) for name in names}


def _with_scores(
    items: list[ReplayedItem], bundle: ServedBundle, scored: Scored, exposure: Exposure
) -> list[ReplayedItem]:
    """Add what was computed to the items it was computed of."""
    dimensions = bundle.dimensions
    scores = _blended(exposure, bundle, scored).tolist()
    done = [
        msgspec.structs.replace(
            item,
            score=score,
            objectives=dict(zip(dimensions.objectives, objectives, strict=True)),
            sources={
                name: value
                for name, value in zip(dimensions.sources, sources, strict=True)
                if value != 0.0
            },
        )
        for item, score, objectives, sources in zip(
            items, scores, scored.objective_score.tolist(), scored.source_score.tolist(),
            strict=False,
        )
    ]  # fmt: skip
    return done + items[len(done) :]

"""Why a served feature is not what the point-in-time reader gives for the same moment.

Each exposure is recomputed from the event log at the moment its features spoke of. What differs is
recomputed under one suspicion after the other, a view at a time, since a view is read and cached as
a whole; the first suspicion under which more of the view is equal than without it explains those
features. A stale cache must explain the whole view: many moments are tried. What nothing explains
is a bug, or damage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.clock import HOUR_MS
from recsys.features.audit.tensors import (
    Part,
    Tensors,
    equal_parts,
    moment_by_hour,
    parts_of,
    shapes_of,
)
from recsys.features.history import UserHistory
from recsys.features.plan import Plan
from recsys.feedback.exposure import Exposure
from recsys.feedback.logging_bundles import LoggingBundle
from recsys.models.encode import encode_users


class Verdict(StrEnum):
    """What became of one feature of one exposure."""

    EQUAL = "equal"
    LATE_EVENT = "late event"
    """A record that the store did not have yet: it arrived after the read or just before it."""
    TTL = "ttl"
    """Served although its view had expired."""
    STALE_CACHE = "stale cache"
    """What was true some time before."""
    VERSION = "version"
    """Of another plan, or of a bundle that is not here: it cannot be recomputed."""
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """How far suspicions reach."""

    in_flight_ms: int = 10_000
    """Records this young at the request may not have been applied yet."""
    max_stale_ms: int = HOUR_MS
    """Age of the oldest cached value that is looked for."""
    max_moments: int = 64
    """Past moments tried exactly for one exposure: the likeliest of the following."""
    max_candidates: int = 5_000
    """Past moments looked at together, in one step, to find those; the latest."""


class Judged(NamedTuple):
    """One feature of one exposure."""

    request_id: str
    user_id: str
    as_of_ms: int
    view: str
    feature: str
    verdict: Verdict
    served: str
    recomputed: str
    """Both empty when equal or not comparable."""


class _Suspicion(NamedTuple):
    verdict: Verdict
    moment_ms: int
    """At which to compute."""
    known_ms: int
    """Records that arrived later are left out."""
    without_ttl: bool = False
    restamped: bool = False
    """Computed then, but as if it spoke of the logged moment."""
    about_s: float = 0.0


class Auditor:
    """Judges exposures against one event log."""

    def __init__(
        self,
        log: pl.DataFrame,
        plan: Plan,
        bundles: Mapping[str, LoggingBundle],
        config: AuditConfig | None = None,
    ) -> None:
        """Take the item and behaviour events that the exposures may depend on."""
        self._log = log
        self._plan = plan
        views = tuple(msgspec.structs.replace(view, ttl_ms=0) for view in plan.views)
        self._lasting = msgspec.structs.replace(plan, views=views)
        self._bundles = bundles
        self._config = config or AuditConfig()
        slides = {a.slide_ms for view in plan.views for a in view.aggregates}
        self._slides = sorted(slides, reverse=True)

    def judge(self, exposures: Sequence[Exposure]) -> Iterator[Judged]:
        """Give a verdict for each feature of each exposure that has features.

        Exposures come back grouped by bundle.
        """
        by_bundle: dict[str, list[Exposure]] = {}
        for exposure in exposures:
            if exposure.features and exposure.features_as_of_ms is not None:
                by_bundle.setdefault(exposure.bundle, []).append(exposure)
        for bundle_id, group in by_bundle.items():
            bundle = self._bundles.get(bundle_id)
            fits = [e for e in group if bundle is not None and self._fits(e, bundle)]
            if bundle is not None and fits:
                yield from self._of_bundle(fits, bundle)
            kept = {id(e) for e in fits}
            for exposure in group:
                if id(exposure) not in kept:
                    yield from _of_another_version(exposure, bundle)

    def _fits(self, exposure: Exposure, bundle: LoggingBundle) -> bool:
        if bundle.plan_schema_hash != self._plan.schema_hash:
            return False
        found = {name: tensor.shape for name, tensor in exposure.features.items()}
        return found == shapes_of(bundle.encoding)

    def _of_bundle(self, exposures: list[Exposure], bundle: LoggingBundle) -> Iterator[Judged]:
        history = UserHistory(self._log, self._plan, bundle.vocabulary)
        moments = np.array([e.features_as_of_ms for e in exposures], dtype=np.int64)
        features = history.features_at([e.user_id for e in exposures], moments)
        tensors = encode_users(features, bundle.encoding)
        parts = parts_of(bundle.encoding)
        for b, exposure in enumerate(exposures):
            computed = {name: tensor[b : b + 1] for name, tensor in tensors.items()}
            yield from self._one(exposure, bundle, parts, computed)

    def _one(
        self, exposure: Exposure, bundle: LoggingBundle, parts: tuple[Part, ...], computed: Tensors
    ) -> Iterator[Judged]:
        logged = {name: tensor.array() for name, tensor in exposure.features.items()}
        equal = equal_parts(parts, logged, computed)
        verdicts = [Verdict.EQUAL if same else Verdict.UNEXPLAINED for same in equal]
        if not all(equal):
            self._explain(exposure, bundle, parts, logged, equal, verdicts)
        for part, verdict in zip(parts, verdicts, strict=True):
            differs = verdict is not Verdict.EQUAL
            yield Judged(
                exposure.request_id, exposure.user_id, exposure.features_as_of_ms or 0,
                part.view, part.feature, verdict,
                _short(part.of(logged)) if differs else "",
                _short(part.of(computed)) if differs else "",
            )  # fmt: skip

    def _explain(
        self,
        exposure: Exposure,
        bundle: LoggingBundle,
        parts: tuple[Part, ...],
        logged: Tensors,
        equal: list[bool],
        verdicts: list[Verdict],
    ) -> None:
        own = self._log_of(exposure.user_id)
        open_views = {p.view for p, same in zip(parts, equal, strict=True) if not same}
        best = {view: _num_equal(parts, equal, view) for view in open_views}
        for suspicion in self._suspicions(exposure, bundle, own, parts, logged):
            if not open_views:
                return
            found = self._under(suspicion, exposure, bundle, own)
            same = equal_parts(parts, logged, found, about_s=suspicion.about_s)
            for view in sorted(open_views):
                if (num := _num_equal(parts, same, view)) <= best[view]:
                    continue
                whole = sum(part.view == view for part in parts)
                # Of thousands of moments one makes some damaged value equal by chance.
                if suspicion.verdict is Verdict.STALE_CACHE and num < whole:
                    continue
                best[view] = num
                for n, part in enumerate(parts):
                    if part.view == view and not equal[n]:
                        verdicts[n] = suspicion.verdict if same[n] else Verdict.UNEXPLAINED
                if num == whole:
                    open_views.discard(view)

    def _log_of(self, user_id: str) -> pl.DataFrame:
        """Give the events of a user, and those of the items they met."""
        mine = self._log.filter(pl.col("user_id") == user_id)
        met = pl.concat([mine["item_id"], mine["items"].explode()]).drop_nulls().unique()
        return self._log.filter(
            (pl.col("user_id") == user_id)
            | ((pl.col("kind") == "item") & pl.col("item_id").is_in(met.implode()))
        )

    def _suspicions(
        self,
        exposure: Exposure,
        bundle: LoggingBundle,
        own: pl.DataFrame,
        parts: tuple[Part, ...],
        logged: Tensors,
    ) -> Iterator[_Suspicion]:
        t = exposure.features_as_of_ms or 0
        yield _Suspicion(Verdict.LATE_EVENT, t, t)
        arrived = own.filter(pl.col("user_id").is_not_null())["ingest_time_ms"].unique().sort()
        recent = [a for a in arrived.to_list() if t - self._config.max_stale_ms < a <= t][::-1]
        for at in recent:
            if at > t - self._config.in_flight_ms:
                yield _Suspicion(Verdict.LATE_EVENT, t, at - 1)
        yield _Suspicion(Verdict.TTL, t, t, without_ttl=True)
        read = moment_by_hour(parts, logged, t)
        if 0 < t - read <= self._config.max_stale_ms:
            yield _Suspicion(Verdict.STALE_CACHE, read, read, about_s=1.0)
        moments = self._past_moments(t, recent)
        if len(moments) > self._config.max_moments:
            moments = self._likeliest(moments, exposure, bundle, own, parts, logged)
        for moment in moments:
            yield _Suspicion(Verdict.STALE_CACHE, moment, moment, restamped=True)

    def _past_moments(self, t: int, arrived: Sequence[int]) -> list[int]:
        """Give moments between which values stand still, latest first.

        A value changes when an event arrives and when a tile ends; where there are more than
        ``max_candidates``, the ends of the shortest tiles are left out.
        """
        most = self._config.max_candidates
        chosen = {at - 1 for at in arrived[:most]}
        for slide in self._slides:
            first = (t - self._config.max_stale_ms) // slide + 1
            ends = {tile * slide - 1 for tile in range(first, t // slide + 1)}
            if len(chosen | ends) > most:
                break
            chosen |= ends
        return sorted(chosen, reverse=True)

    def _likeliest(
        self,
        moments: list[int],
        exposure: Exposure,
        bundle: LoggingBundle,
        own: pl.DataFrame,
        parts: tuple[Part, ...],
        logged: Tensors,
    ) -> list[int]:
        """Give the moments at which most features are as logged, best first.

        All are computed together, from all events whenever they arrived: near enough to choose by.
        """
        history = UserHistory(own, self._plan, bundle.vocabulary)
        at = np.array(moments, dtype=np.int64)
        features = history.features_at([exposure.user_id] * len(at), at)
        as_of = np.full(len(at), exposure.features_as_of_ms, dtype=np.int64)
        tensors = encode_users(replace(features, as_of_ms=as_of), bundle.encoding)
        score = np.zeros(len(at), dtype=np.int64)
        for part in parts:
            same = part.of(tensors) == part.of(logged)
            score += same.reshape(len(at), -1).all(axis=1)
        best = np.argsort(-score, kind="stable")[: self._config.max_moments]
        return [moments[n] for n in best.tolist()]

    def _under(
        self, suspicion: _Suspicion, exposure: Exposure, bundle: LoggingBundle, own: pl.DataFrame
    ) -> Tensors:
        known = own.filter(pl.col("ingest_time_ms") <= suspicion.known_ms)
        plan = self._lasting if suspicion.without_ttl else self._plan
        history = UserHistory(known, plan, bundle.vocabulary)
        moment = np.array([suspicion.moment_ms], dtype=np.int64)
        features = history.features_at([exposure.user_id], moment)
        if suspicion.restamped:
            logged = np.array([exposure.features_as_of_ms], dtype=np.int64)
            features = replace(features, as_of_ms=logged)
        return encode_users(features, bundle.encoding)


def _num_equal(parts: tuple[Part, ...], equal: Sequence[bool], view: str) -> int:
    return sum(same for part, same in zip(parts, equal, strict=True) if part.view == view)


def _of_another_version(exposure: Exposure, bundle: LoggingBundle | None) -> Iterator[Judged]:
    """Give every feature that was logged; by tensor when its bundle is not here to name them."""
    if bundle is None:
        features = [("tensor", name) for name in exposure.features]
    else:
        features = [(part.view, part.feature) for part in parts_of(bundle.encoding)]
    for view, feature in features:
        yield Judged(
            exposure.request_id, exposure.user_id, exposure.features_as_of_ms or 0,
            view, feature, Verdict.VERSION, "", "",
        )  # fmt: skip


def _short(values: NDArray[Any]) -> str:
    flat = values.reshape(-1)
    text = str(flat[0].item()) if flat.size == 1 else str(flat[np.flatnonzero(flat)].tolist())
    return text if len(text) <= 60 else text[:57] + "…"

"""From what was sent to a step's figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from benchmarks.loadtest.paced import Floats
from benchmarks.loadtest.result import HIGHEST_US, LATE_MS, Kind, Second, Step
from benchmarks.loadtest.senders import Sent, is_good
from benchmarks.loadtest.slo import Objective
from benchmarks.loadtest.traffic import KINDS

PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
_FULL = "200 full"


def summarise(
    sent: Sent, *, rate: float, duration_s: float, timeout_s: float, objective: Objective | None
) -> Step:
    """Give a step; observers add what they saw."""
    count = len(sent.due_s)
    names = sent.label_names
    good = np.array([is_good(name) for name in names] or [False])[sent.labels]
    lower = np.array([name.startswith("200 ") and name != _FULL for name in names] or [False])
    latency_ms = 1e3 * np.where(np.isnan(sent.latency_s), timeout_s, sent.latency_s)
    wanted = sorted({*PERCENTILES, *(objective.percentiles() if objective else ())})
    figures = latencies(latency_ms, wanted)
    errors = float(np.mean(~good)) if count else float("nan")
    degraded = float(np.mean(lower[sent.labels])) if count else float("nan")
    late = sent.lateness_s[~np.isnan(sent.lateness_s)]
    late_ms = 1e3 * float(np.percentile(late, 99)) if len(late) else 0.0
    span_s = max(min(sent.elapsed_s, duration_s), 1e-9)
    missed = []
    if not count:
        missed.append("nothing was due")
    elif objective is not None:
        missed += objective.missed(figures | {"errors": errors, "degraded": degraded})
    if sent.given_up:
        missed.append("more than a second's requests waited: given up")
    if late_ms > LATE_MS:
        missed.append(f"the generator was {late_ms:.1f} ms late")
    kinds = {}
    for number, kind in enumerate(KINDS):
        of_kind = sent.kinds == number
        if of_kind.any():
            kinds[kind] = Kind(
                sent=int(of_kind.sum()), bad=int((~good[of_kind]).sum()),
                latency_ms=_rounded(latencies(latency_ms[of_kind], PERCENTILES)),
            )  # fmt: skip
    counted = np.bincount(sent.labels, minlength=len(names)).tolist() if count else []
    return Step(
        rate=round(rate, 2),
        duration_s=round(duration_s, 3),
        sent=count,
        answered_per_s=round(int(good.sum()) / span_s, 2) if count else 0.0,
        latency_ms=_rounded(figures) if count else {},
        errors=errors if count else 0.0,
        degraded=degraded if count else 0.0,
        answers=dict(zip(names, counted, strict=True)) if count else {},
        kinds=kinds,
        seconds=_seconds(sent.due_s, latency_ms, good),
        histogram=histogram_of(latency_ms).encode().decode(),
        generator_late_p99_ms=round(late_ms, 3),
        generator_cores=[round(cpu_s / max(sent.elapsed_s, 1e-9), 3) for cpu_s in sent.cpu_s],
        given_up=sent.given_up,
        interrupted=sent.interrupted,
        unanswered_at_end=sent.num_open,
        missed=missed,
    )


def latencies(latency_ms: Floats, percentiles: Sequence[float]) -> dict[str, float]:
    """Give figures by name; a percentile is a latency that occurred. NaN of nothing."""
    if not len(latency_ms):
        return {f"p{p:g}": float("nan") for p in percentiles} | {"max": float("nan")}
    found = np.percentile(latency_ms, percentiles, method="higher").tolist()
    figures = {f"p{p:g}": value for p, value in zip(percentiles, found, strict=True)}
    return figures | {"max": float(latency_ms.max()), "mean": float(latency_ms.mean())}


def histogram_of(latency_ms: Floats) -> HdrHistogram:
    """Give an HdrHistogram of microseconds, three digits."""
    histogram = HdrHistogram(1, HIGHEST_US, 3)
    us = np.clip(np.rint(latency_ms * 1e3), 1, HIGHEST_US).astype(np.int64)
    values, counts = np.unique(us, return_counts=True)
    for value, times in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, times)
    return histogram


def _seconds(due_s: Floats, latency_ms: Floats, good: NDArray[np.bool_]) -> list[Second]:
    if not len(due_s):
        return []
    second = due_s.astype(np.int64)
    edges = np.searchsorted(second, np.arange(second[-1] + 2))
    rows = []
    for at_s, (begin, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        if begin == end:
            continue
        part = latency_ms[begin:end]
        p50, p99 = np.percentile(part, [50, 99], method="higher").tolist()
        rows.append(
            Second(
                at_s=at_s, due=end - begin, bad=int((~good[begin:end]).sum()),
                p50_ms=round(p50, 3), p99_ms=round(p99, 3), max_ms=round(float(part.max()), 3),
            )
        )  # fmt: skip
    return rows


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items()}

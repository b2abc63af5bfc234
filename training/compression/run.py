"""Make a smaller bundle, judge it beside its original, and take it into the store if it may be."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recsys.bundle.compress import write_compressed, write_metrics
from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import Manifest
from recsys.bundle.store import BundleStore
from recsys.errors import InputError
from recsys.models.config import Precision
from training.compression.cost import request_us, weight_bytes
from training.compression.loss import Bound, Loss, losses
from training.progress import Progress
from training.report.judge import judge_bundle
from training.source import Source


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """What came of it."""

    manifest: Manifest
    """Of the smaller bundle, whether or not it is in the store."""
    losses: Sequence[Loss]
    weight_bytes: dict[str, int]
    """On disk, of ``original`` and ``compressed``."""
    request_us: dict[str, float]
    """CPU of one recommendation, one thread, of both; the machine's, so no part of the bundle."""

    @property
    def is_allowed(self) -> bool:
        """Whether every loss is within its bound, and the bundle therefore in the store."""
        return all(one.is_allowed for one in self.losses)

    def as_json(self) -> dict[str, Any]:
        """Give plain numbers."""
        return {
            "bundle_id": self.manifest.bundle_id,
            "compressed_from": self.manifest.compressed_from,
            "is_allowed": self.is_allowed,
            "losses": [one.as_json() for one in self.losses],
            "weight_bytes": self.weight_bytes,
            "request_us": {name: round(value, 1) for name, value in self.request_us.items()},
        }


def compress(
    store: BundleStore,
    original: Manifest,
    precision: Precision,
    bound: Bound,
    source: Source,
    *,
    now_ms: int,
    progress: Progress,
) -> Compressed:
    """Compress a bundle of the store and hold it against ``bound`` on the test of ``source``.

    Raises:
        InputError: when there is nothing to compress or nobody to judge by.
        BundleError: when the bundle is missing or damaged.
    """
    folder = store.path(original.bundle_id)
    draft = store.bundle_dir / f".draft-compressed-{original.bundle_id}"
    try:
        small = write_compressed(folder, precision, draft, now_ms=now_ms)
        before = judge_bundle(folder, source, progress=progress)
        after = judge_bundle(draft, source, progress=progress)
        if before.judged is None or after.judged is None:
            raise InputError(
                "nobody of the test was known before it, so no loss can be measured; replay more, "
                "or give a later --test-from"
            )
        found = losses(before.judged, after.judged, bound)
        metrics = dict(after.metrics) | {"compression": [one.as_json() for one in found]}
        made = Compressed(
            manifest=write_metrics(draft, small, metrics),
            losses=found,
            weight_bytes={"original": weight_bytes(folder), "compressed": weight_bytes(draft)},
            request_us=request_us(
                {"original": load_serving_model(folder), "compressed": load_serving_model(draft)},
                after.judged.context, k=source.k, num_candidates=original.num_candidates,
            ),
        )  # fmt: skip
        if made.is_allowed:
            store.add(draft)
        return made
    finally:
        shutil.rmtree(draft, ignore_errors=True)

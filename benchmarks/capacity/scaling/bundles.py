"""The bundles whose sizes are varied, each made once."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.loadtest.untrained_bundle import Shape, add_untrained_bundle
from recsys.features.plan import Plan

SEED = 1
_NAMES = "bundles.json"


def bundle_of(folder: Path, plan: Plan, num_items: int, shape: Shape) -> Path:
    """Give the folder of the untrained bundle of this size, made when it is first asked for."""
    names = folder / _NAMES
    known: dict[str, str] = json.loads(names.read_text()) if names.exists() else {}
    key = f"{num_items} {shape}"
    if key not in known or not (folder / known[key]).exists():
        known[key] = add_untrained_bundle(folder, plan, num_items=num_items, seed=SEED, shape=shape)
        names.write_text(json.dumps(known, indent=1))
    return folder / known[key]

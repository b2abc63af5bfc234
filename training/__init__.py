"""From history to a bundle: examples, recipes, the training loop, evaluation, Ray."""

import os
from pathlib import Path
from typing import Any

# Before torch is loaded: threads that wait for each other sleep instead of spinning, which on a
# machine that also runs servers is the difference between one minute and several.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def make_debug_bundle(out_dir: Path, **options: Any) -> Path:
    """Make a small bundle in seconds; see ``debug_bundle.make_debug_bundle``."""
    from training.debug_bundle import make_debug_bundle as make  # torch is not needed to import us

    return make(out_dir, **options)

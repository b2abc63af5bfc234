"""From history to a bundle: examples, recipes, the training loop, evaluation, Ray."""

from pathlib import Path
from typing import Any


def make_debug_bundle(out_dir: Path, **options: Any) -> Path:
    """Make a small bundle in seconds; see ``debug_bundle.make_debug_bundle``."""
    from training.debug_bundle import make_debug_bundle as make  # torch is not needed to import us

    return make(out_dir, **options)

"""What of a bundle decides the tensors that were logged under it: its rows and its columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from recsys.bundle.manifest import read_manifest
from recsys.bundle.served import VOCABULARY_FILE
from recsys.bundle.store import BundleStore
from recsys.data.vocabulary import Vocabulary
from recsys.data.vocabulary_file import load_vocabulary
from recsys.errors import BundleError
from recsys.models.encode import UserEncoding


@dataclass(frozen=True, kw_only=True)
class LoggingBundle:
    """A bundle that answers were made with, as far as it says what logged tensors mean."""

    bundle_id: str
    plan_schema_hash: str
    vocabulary: Vocabulary
    encoding: UserEncoding


def logging_bundles(bundle_dir: Path, bundle_ids: Iterable[str]) -> dict[str, LoggingBundle]:
    """Give the bundles of these ids; one that is gone from the store, or damaged, is left out."""
    store = BundleStore(bundle_dir)
    bundles: dict[str, LoggingBundle] = {}
    for bundle_id in sorted(set(bundle_ids)):
        try:
            folder = store.path(bundle_id)
            manifest = read_manifest(folder)
            vocabulary = load_vocabulary(folder / VOCABULARY_FILE)
        except BundleError:
            continue
        bundles[bundle_id] = LoggingBundle(
            bundle_id=bundle_id,
            plan_schema_hash=manifest.plan_schema_hash,
            vocabulary=vocabulary,
            encoding=manifest.encoding,
        )
    return bundles

"""The manifest: what a bundle is, what made it, and the checksum of every file in it.

Free of torch, because the API process reads it too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recsys.errors import BundleError
from recsys.models.config import Precision, RankerConfig, SourceMix, TwoTowerConfig
from recsys.models.encode import UserEncoding
from recsys.models.signature import Dimensions

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
_UNHASHED = {"bundle_id", "created_ms"}
_FIRST_RANKER_FIELDS = frozenset({"hidden_size", "num_crosses", "num_factors", "dropout"})
_FIRST_TOWER_FIELDS = frozenset(
    {
        "embedding_size", "hidden_size", "num_heads", "num_text_buckets", "num_words",
        "num_token_buckets", "id_dropout", "dropout", "temperature",
    }
)  # fmt: skip
"""Later fields count in the id only where they differ from their default, which is what a bundle
from before them means: it keeps its id."""


class Objective(BaseModel):
    """One thing the ranker predicts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    interaction: str
    """Type of the interaction or feedback event that is its label."""
    min_value: float | None = None
    """Only events with at least this value are one."""
    weight: float
    """Share in the blended score; 0 is predicted and reported only."""


class LoggedFeatures(BaseModel):
    """What a ranker learned from that was logged at serving."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_lists: int
    left_out: dict[str, int]
    """Shown lists that could not be learned from, by reason."""
    num_repeated: int
    """Exposures that were in the log once more."""
    num_compared: int
    """Lists whose features were joined again."""
    equal_share: dict[str, float]
    """``view:feature`` to the share of these lists in which logged and joined values are equal."""


class Lineage(BaseModel):
    """Where a bundle comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    num_events: int
    log_positions: dict[str, int] = {}
    """``topic:partition`` to the offset after the last event read."""
    data_hash: str = ""
    """Hash of the events' content, in order; "" in old bundles."""
    data_from_ms: int
    data_until_ms: int
    """Event time of the first event, and the moment from which nothing was learned."""
    logged_features: LoggedFeatures | None = None
    """None: the ranker learned from features joined from the event log."""
    seed: int
    code_version: str
    """Commit of the code, or its package version outside a checkout."""
    libraries: dict[str, str]
    """Name to version of the libraries that decide the numbers."""
    device: str


class FileEntry(BaseModel):
    """One file of the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size_bytes: int


class IndexRecall(BaseModel):
    """What an approximate index found for one kind of user when it was set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    num_users: int
    recall: float
    """Mean share of the exact ``k`` nearest."""
    is_held: bool
    """The index was set so that they are found ``recall_wanted``; else it is only told."""


class IndexSetting(BaseModel):
    """How an approximate index is searched, and what it was set by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int
    """Wanted of a search: the candidates of a request."""
    recall_wanted: float
    num_cells: int
    num_probes: int
    """Cells a search looks into."""
    oversample: float
    """Items scored anew for each that is wanted."""
    found: tuple[IndexRecall, ...]


class Manifest(BaseModel):
    """All that is said of a bundle. ``bundle_id`` is the hash of the rest, its date left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format_version: Literal[1] = 1
    bundle_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    created_ms: int
    recipe: str
    recipe_config: dict[str, Any]
    feature_services: tuple[str, ...]
    plan_schema_hash: str
    views: dict[str, str] = {}
    """Streamed view to the state it was trained on (``View.state_name``); empty in old bundles."""
    dimensions: Dimensions
    encoding: UserEncoding
    towers: TwoTowerConfig
    ranker: RankerConfig
    sources: SourceMix
    precision: Precision = Precision()
    compressed_from: str | None = None
    """Bundle whose numbers these are, in a smaller precision."""
    objectives: tuple[Objective, ...]
    num_items: int
    """N, padding not counted."""
    num_candidates: int
    """Candidates a request retrieves and ranks; what the metrics were measured with."""
    metrics: dict[str, Any]
    index: IndexSetting | None = None
    """None: the bundle has no approximate index, or an old one."""
    lineage: Lineage
    files: dict[str, FileEntry]

    def content_hash(self) -> str:
        """Give the id this manifest must have."""
        # A bundle from before these fields keeps its id.
        absent = set() if self.views else {"views"}
        if self.precision == Precision():
            absent |= {"precision", "compressed_from"}
        if self.index is None:
            absent.add("index")
        content = self.model_dump(mode="json", exclude=_UNHASHED | absent)
        if not self.lineage.data_hash:
            del content["lineage"]["data_hash"]
        if self.lineage.logged_features is None:
            del content["lineage"]["logged_features"]
        if not self.encoding.request_keys:
            del content["encoding"]["request_keys"], content["dimensions"]["num_request_tokens"]
        for part, config, first in (
            ("ranker", RankerConfig(), _FIRST_RANKER_FIELDS),
            ("towers", TwoTowerConfig(), _FIRST_TOWER_FIELDS),
        ):
            content[part] = {
                name: value
                for name, value in content[part].items()
                if name in first or getattr(getattr(self, part), name) != getattr(config, name)
            }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def with_id(self) -> Manifest:
        """Give the manifest with its id filled in."""
        return self.model_copy(update={"bundle_id": self.content_hash()})

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` into ``folder``."""
        (folder / MANIFEST_FILE).write_text(
            json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True)
        )


def read_manifest(folder: Path) -> Manifest:
    """Read a bundle's manifest.

    Raises:
        BundleError: when it is absent, of another version, or does not fit its own id.
    """
    path = folder / MANIFEST_FILE
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"no bundle at {folder}: {MANIFEST_FILE} is missing") from None
    except ValueError as error:
        raise BundleError(f"{path} is damaged: {error}; train again or roll back") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {version!r}, this code reads {FORMAT_VERSION}; "
            "train again with this version"
        )
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        raise BundleError(f"{path} does not fit its schema: {error}") from error
    if manifest.bundle_id != manifest.content_hash():
        raise BundleError(
            f"{path} says bundle {manifest.bundle_id}, its content makes "
            f"{manifest.content_hash()}: it was changed after training; roll back or train again"
        )
    return manifest


def file_entry(path: Path) -> FileEntry:
    """Give size and checksum of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(sha256=digest, size_bytes=path.stat().st_size)


def verify_files(folder: Path, manifest: Manifest, only: Collection[str] | None = None) -> None:
    """Compare every file with the manifest; of those in ``only`` where it is given.

    Raises:
        BundleError: naming the file that is missing, changed, or wanted and not in the manifest.
    """
    for name in manifest.files if only is None else only:
        path = folder / name
        entry = manifest.files.get(name)
        if entry is None:
            raise BundleError(
                f"bundle {manifest.bundle_id}: wanted {name} among its files, found "
                f"{', '.join(sorted(manifest.files))}; train again"
            )
        if not path.is_file():
            raise BundleError(f"bundle {manifest.bundle_id}: {name} is missing from {folder}")
        found = file_entry(path)
        if found != entry:
            raise BundleError(
                f"bundle {manifest.bundle_id}: {name} is damaged: wanted {entry.size_bytes} bytes "
                f"with sha256 {entry.sha256[:12]}…, found {found.size_bytes} with "
                f"{found.sha256[:12]}…; roll back with `recsys bundle rollback` or train again"
            )

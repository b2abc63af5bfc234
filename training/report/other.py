"""The bundle to compare with: found in the store, loaded, and asked the same questions, or refused
with a reason that the report prints.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import Manifest, read_manifest
from recsys.bundle.served import VOCABULARY_FILE
from recsys.bundle.store import CHAMPION, BundleStore
from recsys.data.vocabulary_file import load_vocabulary
from recsys.errors import BundleError, RecsysError
from recsys.evaluation.report_document import Against
from recsys.features import plan as plans
from recsys.features.history import EventLogSource, ItemHistory, UserHistory, open_rows
from recsys.features.plan import Plan
from training.evaluate import Judged
from training.progress import Progress
from training.report.build import Other
from training.report.contender import Contender

LIVE = "live"
PLAN_FILE = "plan.json"


def find_other(store: BundleStore, wanted: str) -> str | None:
    """Give the id of ``live``, an alias or an id; None when nothing is live.

    Raises:
        BundleError: when it is not there, or the pointer is damaged.
    """
    if wanted in (LIVE, CHAMPION):
        return store.live()
    return read_manifest(store.path(store.resolve(wanted))).bundle_id


def open_contender(folder: Path, log: EventLogSource, plan: Plan) -> tuple[Contender, Manifest]:
    """Load a bundle from the store, with readers of the features it was trained on.

    Where its plan is not the present one, its own is read from its folder, and its features are
    computed from the log by that.

    Raises:
        RecsysError: when it is damaged, of another version, or its features cannot be computed.
    """
    manifest = read_manifest(folder)
    model = load_serving_model(folder)
    vocabulary = load_vocabulary(folder / VOCABULARY_FILE)
    if plan.schema_hash != manifest.plan_schema_hash:
        plan = plans.load(folder / PLAN_FILE)
    rows = open_rows(log, plan)
    contender = Contender(
        name=manifest.bundle_id, model=model, vocabulary=vocabulary,
        users=UserHistory(rows, plan, vocabulary), items=ItemHistory(rows, plan, vocabulary),
        encoding=manifest.encoding, objectives=manifest.objectives,
        num_candidates=manifest.num_candidates,
    )  # fmt: skip
    return contender, manifest


def ask_other(
    store: BundleStore,
    wanted: str,
    *,
    ours: Manifest,
    judged: Judged | None,
    log: EventLogSource,
    plan: Plan,
    progress: Progress,
) -> Other | None:
    """Give the other bundle's lists for the users that ``judged`` holds; None when none is live.

    A training run must not fail because the bundle before it cannot be read: what is wrong with it
    becomes the reason why there is no comparison.
    """
    try:
        bundle_id = find_other(store, wanted)
    except BundleError as error:
        return Against(bundle_id=wanted, called=wanted, refused=str(error)), None
    if bundle_id is None:
        return None
    against = Against(bundle_id=bundle_id, called=wanted)
    if judged is None:
        return against.model_copy(update={"refused": "the test has nobody to judge"}), None
    try:
        contender, manifest = open_contender(store.path(bundle_id), log, plan)
        against = against.model_copy(
            update={
                "recipe": manifest.recipe, "created_ms": manifest.created_ms,
                "data_until_ms": manifest.lineage.data_until_ms,
            }
        )  # fmt: skip
        reason = _unfair(ours, manifest, judged)
        if reason:
            return against.model_copy(update={"refused": reason}), None
        held_out = judged.held_out
        contender.at(held_out, judged.catalogue)
        context = contender.contexts(
            held_out.user_ids, held_out.moments_ms, progress, f"test users, {bundle_id}"
        )
        lists = {
            view: contender.lists(
                held_out, question, context, view=view, k=judged.k, progress=progress
            )
            for view, question in judged.questions.items()
        }
    except RecsysError as error:
        return against.model_copy(update={"refused": str(error)}), None
    return against, lists


def _unfair(ours: Manifest, theirs: Manifest, judged: Judged) -> str:
    """Say why a comparison would mislead; "" when it would not."""
    if ours.bundle_id == theirs.bundle_id:
        return "it is this very bundle"
    if ours.lineage.dataset != theirs.lineage.dataset:
        return (
            f"it was trained on data set {theirs.lineage.dataset!r}, this one on "
            f"{ours.lineage.dataset!r}"
        )
    until_ms, from_ms = theirs.lineage.data_until_ms, judged.held_out.test_from_ms
    if until_ms > from_ms:
        return (
            f"it learned from data until {_moment(until_ms)}, past the beginning of this test at "
            f"{_moment(from_ms)}: it knows answers; compare on a later test with "
            f"`recsys evaluate {ours.bundle_id} --against {theirs.bundle_id}`"
        )
    return ""


def _moment(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"

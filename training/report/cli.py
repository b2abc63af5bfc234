"""``recsys evaluate [BUNDLE] --against live``: judge a bundle on the log, and write its report.

BUNDLE is an id, ``champion`` or ``challenger``; by default the newest of the store. It is judged on
what came after the data it learned from (of the later of the two, when it is compared with another)
or from ``--test-from`` on. Tables go to standard error, one JSON result to standard output; the
report replaces the one that lies beside the bundles, or goes to ``--output``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recsys.bundle.manifest import Manifest, read_manifest
from recsys.bundle.store import BundleStore
from recsys.errors import BundleError, RecsysError
from recsys.evaluation.report import as_table
from recsys.features import current_plan
from recsys.settings import Settings
from training.progress import Progress
from training.report.judge import judge_bundle
from training.report.other import LIVE, find_other
from training.report.run import report_on
from training.source import Wanted, read_log, source_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    args = _arguments(argv)
    progress = Progress(quiet=args.quiet)
    try:
        result = _run(args, Settings(), progress)
    except RecsysError as error:
        sys.stderr.write(f"recsys evaluate: {error}\n")
        return 2
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="recsys evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", nargs="?", help="default: the newest")
    parser.add_argument(
        "--against", default=LIVE, help="live, champion, challenger, or a bundle's id"
    )
    parser.add_argument(
        "--dataset", help="mapping that says what is relevant; default: the bundle's"
    )
    parser.add_argument("--shift-ms", type=int, default=0, help="shift the replay added to times")
    parser.add_argument("--test-from", help="first moment of the test (ISO 8601, UTC)")
    parser.add_argument(
        "--from-files", action="store_true",
        help="read the data set's files instead of the event log (no Kafka needed)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="folder for the report")
    parser.add_argument("--quiet", action="store_true", help="no progress, no tables")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace, settings: Settings, progress: Progress) -> dict[str, Any]:
    store = BundleStore(settings.bundle_dir)
    manifest = _wanted_bundle(store, args.bundle)
    plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
    dataset = args.dataset or manifest.lineage.dataset
    with progress.stage("read the log"):
        log = read_log(
            settings,
            Wanted(dataset=dataset, shift_ms=args.shift_ms, from_files=args.from_files),
        )
    source = source_of(log, plan, dataset, shift_ms=args.shift_ms, test_from=args.test_from)
    asked = source.test_from_ms if args.test_from else None
    test_from_ms = _test_from(store, manifest, args.against, asked)
    verdict = judge_bundle(
        store.path(manifest.bundle_id), replace(source, test_from_ms=test_from_ms),
        progress=progress,
    )  # fmt: skip
    for view, rows in verdict.tables.items():
        progress.console.print(as_table(view.replace("_", " "), rows))
    folder = report_on(
        manifest, verdict, log, plan, store, against=args.against, progress=progress,
        output=args.output,
    )  # fmt: skip
    return {
        "bundle_id": manifest.bundle_id,
        "report": str(folder / "report.html"),
        "test_from_ms": test_from_ms,
        "metrics": verdict.metrics,
    }


def _wanted_bundle(store: BundleStore, name: str | None) -> Manifest:
    if name is not None:
        return read_manifest(store.path(store.resolve(name)))
    newest = store.list()
    if not newest:
        raise BundleError(f"no bundle in {store.bundle_dir}; run `recsys train`")
    return newest[0]


def _test_from(store: BundleStore, manifest: Manifest, against: str, asked: int | None) -> int:
    """Give the moment from which neither bundle knows anything, unless another was asked for."""
    if asked is not None:
        return asked
    moment_ms = manifest.lineage.data_until_ms
    try:
        other = find_other(store, against)
        if other is not None:
            moment_ms = max(moment_ms, read_manifest(store.path(other)).lineage.data_until_ms)
    except BundleError:
        pass  # the report will say what is wrong with it
    return moment_ms


if __name__ == "__main__":
    sys.exit(main())

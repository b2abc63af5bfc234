"""``recsys compress BUNDLE --item-vectors int8 --ranker int8``: the same bundle in smaller numbers.

Makes another bundle, judges both on what came after the data they learned from, and adds the new
one to the store only when it loses less than the bounds allow. Tables go to standard error, one
JSON result to standard output; exit code 3 says that it lost too much and was not added.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from rich.table import Table

from recsys.bundle.manifest import read_manifest
from recsys.bundle.store import BundleStore
from recsys.clock import now_ms
from recsys.errors import RecsysError
from recsys.features import current_plan
from recsys.models.config import Precision, VectorPrecision, WeightPrecision
from recsys.settings import Settings
from training.compression.loss import Bound, Loss
from training.compression.run import Compressed, compress
from training.progress import Progress
from training.source import Wanted, read_log, source_of

REFUSED = 3
"""Exit code of a bundle that lost too much."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    args = _arguments(argv)
    progress = Progress(quiet=args.quiet)
    try:
        result = _run(args, Settings(), progress)
    except RecsysError as error:
        sys.stderr.write(f"recsys compress: {error}\n")
        return 2
    sys.stdout.write(json.dumps(result) + "\n")
    if not result["is_allowed"]:
        sys.stderr.write("recsys compress: it loses more than the bounds allow; it was not added\n")
        return REFUSED
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="recsys compress",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", help="an id, champion or challenger")
    parser.add_argument("--item-vectors", choices=get_args(VectorPrecision), default="float32")
    parser.add_argument("--towers", choices=get_args(WeightPrecision), default="float32")
    parser.add_argument("--ranker", choices=get_args(WeightPrecision), default="float32")
    parser.add_argument(
        "--max-loss", type=float, default=Bound.max_loss,
        help="share of recall and NDCG it may lose, in every view (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-calibration-loss", type=float, default=Bound.max_calibration_loss,
        help="what the calibration error may grow by (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--shift-ms", type=int, default=0, help="shift the replay added to times")
    parser.add_argument("--test-from", help="first moment of the test (ISO 8601, UTC)")
    parser.add_argument(
        "--from-files", action="store_true",
        help="read the data set's files instead of the event log (no Kafka needed)",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress, no tables")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace, settings: Settings, progress: Progress) -> dict[str, Any]:
    bound = Bound(max_loss=args.max_loss, max_calibration_loss=args.max_calibration_loss)
    precision = Precision(item_vectors=args.item_vectors, towers=args.towers, ranker=args.ranker)
    store = BundleStore(settings.bundle_dir)
    manifest = read_manifest(store.path(store.resolve(args.bundle)))
    plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
    dataset = manifest.lineage.dataset
    wanted = Wanted(dataset=dataset, shift_ms=args.shift_ms, from_files=args.from_files)
    with progress.stage("read the log"):
        log = read_log(settings, wanted)
    source = source_of(log, plan, dataset, shift_ms=args.shift_ms, test_from=args.test_from)
    if not args.test_from:
        source = replace(source, test_from_ms=manifest.lineage.data_until_ms)
    made = compress(
        store, manifest, precision, bound, source, now_ms=now_ms(), progress=progress
    )  # fmt: skip
    progress.console.print(_table(made.losses))
    progress.console.print(_said(made))
    return made.as_json()


def _table(found: Sequence[Loss]) -> Table:
    table = Table(title="compressed beside original")
    for name in ("figure", "original", "compressed", "loss", "at worst", "bound", ""):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for one in found:
        table.add_row(
            one.what, f"{one.original:.4f}", f"{one.compressed:.4f}", f"{one.loss:+.4f}",
            f"{one.worst:+.4f}", f"{one.bound:.4f}", "ok" if one.is_allowed else "too much",
        )  # fmt: skip
    return table


def _said(made: Compressed) -> str:
    size, time_us = made.weight_bytes, made.request_us
    return (
        f"{size['original'] / 1e6:.2f} MB → {size['compressed'] / 1e6:.2f} MB of tensors; one "
        f"request {time_us['original']:.0f} µs → {time_us['compressed']:.0f} µs of CPU"
    )


if __name__ == "__main__":
    sys.exit(main())

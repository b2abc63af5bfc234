"""``recsys bundle list | show [ID] | activate ID | rollback``: see bundles, move the pointer."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from recsys.bundle.manifest import Manifest, read_manifest, verify_files
from recsys.bundle.store import BundleStore
from recsys.errors import BundleError
from recsys.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="recsys bundle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all bundles, newest first; * marks the live one")
    show = commands.add_parser("show", help="a bundle's manifest as JSON, its files verified")
    show.add_argument("bundle_id", nargs="?", help="default: the live one")
    activate = commands.add_parser("activate", help="make a bundle the live one")
    activate.add_argument("bundle_id")
    commands.add_parser("rollback", help="make the bundle that was live before live again")
    args = parser.parse_args(argv)
    store = BundleStore(Settings().bundle_dir)
    try:
        if args.command == "list":
            _list(store)
        elif args.command == "show":
            _show(store, args.bundle_id)
        else:
            if args.command == "activate":
                store.activate(args.bundle_id)
            bundle_id = args.bundle_id if args.command == "activate" else store.rollback()
            sys.stdout.write(json.dumps({"live": bundle_id}) + "\n")
    except BundleError as error:
        sys.stderr.write(f"recsys bundle: {error}\n")
        return 1
    return 0


def _list(store: BundleStore) -> None:
    live = store.live()
    table = Table()
    for title in ("", "bundle", "created (UTC)", "recipe", "data set", "items", "headline"):
        table.add_column(title)
    for manifest in store.list():
        created = datetime.fromtimestamp(manifest.created_ms / 1000, UTC)
        table.add_row(
            "*" if manifest.bundle_id == live else "",
            manifest.bundle_id,
            f"{created:%Y-%m-%d %H:%M:%S}",
            manifest.recipe,
            manifest.lineage.dataset,
            str(manifest.num_items),
            headline(manifest),
        )
    Console().print(table)


def headline(manifest: Manifest) -> str:
    """Give a bundle's first view in a few words: ``new_items_only recall@20 0.1234``."""
    for view, rows in manifest.metrics.get("views", {}).items():
        served = rows.get("served", {})
        for name, value in served.items():
            if name.startswith("recall@") and not name.endswith("_interval"):
                return f"{view} {name} {value:.4f}"
    return ""


def _show(store: BundleStore, bundle_id: str | None) -> None:
    wanted = bundle_id or store.live()
    if wanted is None:
        raise BundleError("no bundle is live; name one, or run `recsys publish`")
    folder = store.path(wanted)
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    sys.stdout.write(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

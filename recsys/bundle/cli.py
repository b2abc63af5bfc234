"""``recsys bundle list | show | index | publish | retire | activate | rollback | alias``.

See bundles and what they are called, put them into service and take them out of it. Wherever an id
is asked for, ``champion`` (the live one) or ``challenger`` will do.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recsys.bundle.manifest import Manifest, read_manifest, verify_files
from recsys.bundle.store import ALIASES, CHAMPION, BundleStore
from recsys.clock import now_ms
from recsys.errors import BundleError, InputError
from recsys.settings import Settings

_PUBLISH = "serving.publish"
"""Named, not imported: this package knows that there is such a command, not what is behind it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="recsys bundle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all bundles, newest first, with their aliases")
    show = commands.add_parser("show", help="a bundle's manifest as JSON, its files verified")
    show.add_argument("bundle_id", nargs="?", help="default: the live one")
    publish = commands.add_parser(
        "publish", help="load and try a bundle, then make it live: what `recsys publish` does"
    )
    publish.add_argument("bundle_id", nargs="?", help="default: the newest")
    publish.add_argument(
        "--beside", action="store_true", help="serve it beside the live bundle, by id only"
    )
    index = commands.add_parser(
        "index", help="make of a bundle another with an approximate index of its items"
    )
    index.add_argument("bundle_id")
    retire = commands.add_parser(
        "retire", help="serve a bundle beside the live one no longer, and unload it"
    )
    retire.add_argument("bundle_id")
    activate = commands.add_parser(
        "activate", help="move the pointer alone; the API loads the bundle when it is not loaded"
    )
    activate.add_argument("bundle_id")
    commands.add_parser("rollback", help="make the bundle that was live before live again")
    alias = commands.add_parser("alias", help="show what aliases stand for, or set the challenger")
    alias.add_argument("name", nargs="?", choices=ALIASES)
    alias.add_argument("bundle_id", nargs="?", help="what it is to stand for")
    alias.add_argument("--remove", action="store_true", help="it is to stand for nothing")
    args = parser.parse_args(argv)
    store = BundleStore(Settings().bundle_dir)
    try:
        if args.command == "list":
            _list(store)
        elif args.command == "index":
            _index(store, args.bundle_id)
        elif args.command == "show":
            _show(store, args.bundle_id)
        elif args.command in ("publish", "retire"):
            return _publish(args)
        elif args.command == "alias":
            _alias(store, args)
        else:
            if args.command == "activate":
                bundle_id = store.resolve(args.bundle_id)
                store.activate(bundle_id)
            else:
                bundle_id = store.rollback()
            sys.stdout.write(json.dumps({"live": bundle_id}) + "\n")
    except (BundleError, InputError) as error:
        sys.stderr.write(f"recsys bundle: {error}\n")
        return 1
    return 0


def _publish(args: argparse.Namespace) -> int:
    """Run the command of another package by name, as `recsys publish` would be."""
    flags = ["--retire"] if args.command == "retire" else ["--beside"] if args.beside else []
    ids = [] if args.bundle_id is None else [args.bundle_id]
    module = importlib.import_module(_PUBLISH)
    return int(module.main([*ids, *flags]))


def _list(store: BundleStore) -> None:
    names = dict.fromkeys(store.beside(), "beside")
    for alias, bundle_id in store.aliases().items():
        names[bundle_id] = f"{alias}, {names[bundle_id]}" if bundle_id in names else alias
    table = Table()
    for title in ("", "bundle", "created (UTC)", "recipe", "data set", "items", "headline"):
        table.add_column(title)
    for manifest in store.list():
        created = datetime.fromtimestamp(manifest.created_ms / 1000, UTC)
        table.add_row(
            names.get(manifest.bundle_id, ""),
            manifest.bundle_id,
            f"{created:%Y-%m-%d %H:%M:%S}",
            manifest.recipe,
            manifest.lineage.dataset,
            str(manifest.num_items),
            headline(manifest),
        )
    Console().print(table)


def _alias(store: BundleStore, args: argparse.Namespace) -> None:
    if args.bundle_id is not None or args.remove:
        if args.name == CHAMPION:
            raise BundleError(
                f"{CHAMPION} is whatever is live: run `recsys publish {args.bundle_id or 'ID'}` "
                "or `recsys bundle rollback`"
            )
        if args.name is None or (args.remove and args.bundle_id is not None):
            raise BundleError("wanted `challenger BUNDLE_ID` or `challenger --remove`")
        store.set_challenger(None if args.remove else store.resolve(args.bundle_id))
    aliases = store.aliases()
    shown = {name: aliases.get(name) for name in ALIASES if args.name in (None, name)}
    sys.stdout.write(json.dumps(shown) + "\n")


def _index(store: BundleStore, name: str) -> None:
    from recsys.bundle.indexed import write_indexed  # torch and faiss

    bundle_id = store.resolve(name)
    with tempfile.TemporaryDirectory(prefix=".indexing-", dir=store.bundle_dir.parent) as folder:
        draft = Path(folder) / "bundle"
        manifest = write_indexed(store.path(bundle_id), draft, now_ms=now_ms())
        store.add(draft)
    sys.stdout.write(json.dumps({"bundle_id": manifest.bundle_id, "of": bundle_id}) + "\n")


def headline(manifest: Manifest) -> str:
    """Give a bundle's first view in a few words: ``new_items_only recall@20 0.1234``."""
    for view, rows in manifest.metrics.get("views", {}).items():
        served = rows.get("served", {})
        for name, value in served.items():
            if name.startswith("recall@") and not name.endswith("_interval"):
                return f"{view} {name} {value:.4f}"
    return ""


def _show(store: BundleStore, bundle_id: str | None) -> None:
    wanted = store.live() if bundle_id is None else store.resolve(bundle_id)
    if wanted is None:
        raise BundleError("no bundle is live; name one, or run `recsys publish`")
    folder = store.path(wanted)
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    sys.stdout.write(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

"""``recsys features versions`` and ``retire``: what versions of views there are, and removing one.

Usage::

    recsys features versions
    recsys features retire user_activity@1 [--force]

``versions`` prints, for each version of each streamed view, its state in the store: ``live``;
``catching up``, computed from the event log and being told what came since; ``backfilling``, being
computed; ``absent``, declared and not computed; ``former``, neither declared nor stored; or
``retired``. Versions that differ in meaning alone share their state.

``retire`` removes a version that is not declared any more from the store and from what workers keep
up to date. Refused while the live bundle reads it, unless ``--force`` is given.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import redis

from recsys.bundle.manifest import Manifest
from recsys.bundle.store import BundleStore
from recsys.endpoints import resolve
from recsys.errors import ConfigurationError, RecsysError
from recsys.features import current_plan
from recsys.features import plan as plans
from recsys.features.backfill import states_of_job, views_folder
from recsys.features.entities import layout_of
from recsys.features.guarded_writer import GuardedWriter
from recsys.features.key_layout import project_of_key
from recsys.features.lease import Lease, rebuild_lease
from recsys.features.plan_history import PlanHistory, ViewVersion
from recsys.features.progress import LAYOUT_FIELD, StoredProgress, catching_up, progress_key
from recsys.features.redis_hashes import RedisHashes, connect
from recsys.settings import Settings

_AT_ONCE = 1_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the two; 0 when done, 1 with one line when it cannot be."""
    parser = argparse.ArgumentParser(prog="recsys features", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("versions", help="print the versions of all views")
    retiring = commands.add_parser("retire", help="remove a version of a view")
    retiring.add_argument("version", metavar="VIEW@N")
    retiring.add_argument("--force", action="store_true", help="even if the live bundle reads it")
    options = parser.parse_args(argv)
    settings = Settings()
    try:
        url = resolve(settings).require_redis()
        if options.command == "versions":
            for line in table(settings, url):
                sys.stdout.write(line + "\n")
        else:
            number = retire(settings, url, options.version, force=options.force)
            report = {"retired": options.version, "entities": number}
            sys.stdout.write(json.dumps(report) + "\n")
    except (RecsysError, redis.RedisError) as error:
        sys.stderr.write(f"recsys features: {error}\n")
        return 1
    return 0


def table(settings: Settings, url: str) -> list[str]:
    """Give the lines of ``recsys features versions``."""
    history = PlanHistory(settings.state_dir)
    with connect(url) as client:
        found = client.hgetall(progress_key(settings.namespace))
    fields: dict[bytes, bytes] = dict(found)
    held = set(fields.get(LAYOUT_FIELD, b"").decode().split("-"))
    behind = catching_up(fields)
    computed = set(states_of_job(views_folder(settings.state_dir)))
    retired = set(history.retired())
    declared = _declared(settings)
    manifests = BundleStore(settings.bundle_dir).list()
    lines = [f"{'VERSION':<32}{'LAYOUT':<10}{'STATE':<13}BUNDLES"]
    for one in history.versions(settings.namespace):
        name = one.view.state_name
        if name in behind:
            state = "catching up"
        elif name in held:
            state = "live"
        elif name in computed:
            state = "backfilling"
        elif name in declared:
            state = "absent"
        else:
            state = "retired" if name in retired else "former"
        users = [m.bundle_id for m in manifests if reads(m, one)]
        lines.append(f"{one.label:<32}{name:<10}{state:<13}{' '.join(users) or '-'}")
    return lines


def reads(manifest: Manifest, version: ViewVersion) -> bool:
    """Say whether a bundle was trained on a version of a view."""
    return manifest.plan_schema_hash in version.plans


def retire(settings: Settings, url: str, label: str, *, force: bool = False) -> int:
    """Remove a version's state; gives from how many entities. Done twice it changes nothing.

    First workers are told to keep it no more, then its field is removed from every entity: killed
    in between, do it again. Feast's fields stay: those of the declared version have the same names.

    Raises:
        ConfigurationError: when it is declared, or the live bundle reads it and not ``force``.
    """
    history = PlanHistory(settings.state_dir)
    version = history.version(settings.namespace, label)
    state, field = version.view.state_name, version.view.state_field
    if state in _declared(settings):
        raise ConfigurationError(
            f"wanted a version that is not declared any more, found {label}, whose state "
            f"{state} feature_repo declares; change the declaration first"
        )
    store = BundleStore(settings.bundle_dir)
    live = store.live()
    sharing = [one for one in history.versions(settings.namespace) if one.view.state_name == state]
    if live and not force:
        manifest = next((m for m in store.list() if m.bundle_id == live), None)
        if manifest is None or any(reads(manifest, one) for one in sharing):
            raise ConfigurationError(
                f"wanted a version the live bundle does not read, found that {live} reads {label}; "
                "publish a bundle of the present features first, or give --force"
            )
    client, hashes = connect(url), RedisHashes(url)
    writer = GuardedWriter(url, settings.namespace)
    lease = Lease(client, rebuild_lease(settings.namespace))
    try:
        lease.acquire(stop=lambda: False)
        with current_plan.compiling(settings.state_dir):
            history.set_retired([*history.retired(), state])
        if writer.begin():
            known = layout_of(history.plans(settings.namespace))
            held = StoredProgress(hashes, settings.namespace).kept(known)
            if state in held:
                writer.switch("-".join(sorted(held - {state})))
        return _remove(client, settings.namespace, field)
    finally:
        lease.release()
        writer.close()
        hashes.close()
        client.close()


def _declared(settings: Settings) -> set[str]:
    plan = plans.load(settings.state_dir / plans.PLAN_FILE)
    return {view.state_name for view in plan.views}


def _remove(client: redis.Redis, namespace: str, field: bytes) -> int:
    removed = 0
    keys: list[bytes] = []

    def flush() -> int:
        with client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hdel(key, field)  # type: ignore[arg-type]
            return sum(pipeline.execute())

    for key in client.scan_iter(count=_AT_ONCE, _type="HASH"):
        if project_of_key(key) == namespace:
            keys.append(key)
        if len(keys) >= _AT_ONCE:
            removed += flush()
            keys.clear()
    return removed + flush()

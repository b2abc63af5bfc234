"""The feature plan: what Feast's declarations say, compiled to one small JSON file.

Importing Feast costs four seconds and 190 MB, so it happens once, when ``feature_repo`` is applied
(``feast_repository.py``). The stream worker, the API and training load this plan instead: keys,
field hashes, types, windows, slides, TTLs, ordered feature names and a hash over all of it, which
a bundle carries so that it is never served with other features than it was trained on.
"""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path

import msgspec

from recsys.errors import FeatureError
from recsys.features import names
from recsys.features.on_demand import OnDemandView
from recsys.features.quality.expectations import Expectation
from recsys.features.view import PLAN_VERSION, View

PLAN_FILE = "plan.json"


class Plan(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All views and services of one Feast project."""

    project: str
    views: tuple[View, ...]
    services: dict[str, tuple[str, ...]]
    """Feature service to its ``view:feature`` names, in order."""
    definitions_hash: str
    """Of the files in ``feature_repo`` this was compiled from."""
    version: int = PLAN_VERSION
    on_demand: tuple[OnDemandView, ...] = ()
    """Features made at the moment of asking (``on_demand.py``)."""
    expectations: tuple[Expectation, ...] = ()
    """What values should be like; no part of ``schema_hash``."""

    @cached_property
    def schema_hash(self) -> str:
        """Sixteen hex digits over all that a feature's value or place depends on."""
        meaning: tuple[object, ...] = (self.version, self.views, self.services)
        if self.on_demand:  # a plan without any keeps the hash it had before there were such views
            meaning += (self.on_demand,)
        return hashlib.sha256(msgspec.json.encode(meaning)).hexdigest()[:16]

    @cached_property
    def _by_name(self) -> dict[str, View]:
        return {view.name: view for view in self.views}

    def view(self, name: str) -> View:
        """Give a view. Raises FeatureError when there is none of that name."""
        try:
            return self._by_name[name]
        except KeyError:
            raise FeatureError(
                f'the feature plan has no view "{name}" (found {", ".join(self._by_name)})'
            ) from None

    def on_demand_view(self, name: str) -> OnDemandView:
        """Give an on-demand view. Raises FeatureError when there is none of that name."""
        for view in self.on_demand:
            if view.name == name:
                return view
        known = ", ".join(view.name for view in self.on_demand)
        raise FeatureError(f'the feature plan has no on-demand view "{name}" (found {known})')

    def sources_of(self, name: str) -> tuple[View, ...]:
        """Give the views of aggregates that an on-demand view reads.

        Raises:
            FeatureError: when there is no such view, or a source is no view of aggregates.
        """
        views = tuple(self.view(source) for source in self.on_demand_view(name).source_views)
        for view in views:
            if not view.aggregates:
                raise FeatureError(
                    f'on-demand view "{name}": wanted views of aggregates, found "{view.name}"; '
                    "read it through a feature service (ServiceReader)"
                )
        return views

    @property
    def user_activity_names(self) -> tuple[str, ...]:
        """Columns ``Fu``."""
        return self.view(names.USER_ACTIVITY).feature_names

    @property
    def item_activity_names(self) -> tuple[str, ...]:
        """Columns ``Fi``."""
        return self.view(names.ITEM_ACTIVITY).feature_names

    @property
    def user_category_activity_names(self) -> tuple[str, ...]:
        """Columns ``Fc``."""
        return self.view(names.USER_CATEGORY_ACTIVITY).feature_names

    def dump(self, path: Path) -> None:
        """Write the plan in one step (temporary file, then rename)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        document = {"schema_hash": self.schema_hash} | msgspec.to_builtins(self)
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
        temporary.replace(path)


def load(path: Path) -> Plan:
    """Read a plan.

    Raises:
        FeatureError: when it is absent, of another version, or its hash does not fit its content.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FeatureError(
            f"wanted a feature plan at {path}, found none; run `recsys features apply`"
        ) from None
    try:
        plan = msgspec.json.decode(data, type=Plan)
        stated = msgspec.json.decode(data).get("schema_hash")
    except msgspec.MsgspecError as error:
        raise FeatureError(f"{path} is not a feature plan: {error}") from error
    if plan.version != PLAN_VERSION or plan.schema_hash != stated:
        raise FeatureError(
            f"{path}: wanted a plan of version {PLAN_VERSION} with schema hash "
            f"{plan.schema_hash}, found version {plan.version} with {stated}; compile it again"
        )
    return plan

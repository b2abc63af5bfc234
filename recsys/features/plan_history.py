"""The plans of a state folder so far, and the version number each view has had in them.

``<state_dir>/plans/0001-<schema hash>.json`` and on, in the order they came into force. A view has
version 1 in the first plan that declares it; another declaration of it (its state or its meaning
is another) is the next version, and an old declaration put back has its old number. What workers
keep up to date is every version not retired that the store says it holds (``progress.py``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from recsys.errors import ConfigurationError
from recsys.features.entities import streamed_views
from recsys.features.plan import PLAN_FILE, Plan, load
from recsys.features.view import View

FOLDER = "plans"
_RETIRED_FILE = "retired.json"


@dataclass(frozen=True, kw_only=True)
class ViewVersion:
    """One declaration a view has had."""

    view: View
    number: int
    plans: tuple[str, ...]
    """Schema hashes of the plans that have it."""

    @property
    def label(self) -> str:
        """``user_activity@2``."""
        return f"{self.view.name}@{self.number}"


class PlanHistory:
    """The plans of one state folder. Processes of one machine may use it at once."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._folder = state_dir / FOLDER

    def record(self, plan: Plan) -> None:
        """Take note that ``plan`` is in force; one that is there already changes nothing.

        Call it with ``current_plan.compiling`` held.
        """
        paths = self._paths()
        if any(path.stem.endswith(f"-{plan.schema_hash}") for path in paths):
            return
        number = 1 + max((int(path.name.partition("-")[0]) for path in paths), default=0)
        plan.dump(self._folder / f"{number:04d}-{plan.schema_hash}.json")

    def plans(self, project: str) -> list[Plan]:
        """Give all plans of a project, the one in force last.

        Raises:
            FeatureError: when one cannot be read.
        """
        found = {p.schema_hash: p for p in map(load, self._paths()) if p.project == project}
        present = self._state_dir / PLAN_FILE
        if present.is_file():
            plan = load(present)
            if plan.project == project:
                found.pop(plan.schema_hash, None)
                found[plan.schema_hash] = plan
        return list(found.values())

    def in_order(self, project: str) -> list[Plan]:
        """Give all plans in the order in which they first came into force."""
        recorded = [load(path).schema_hash for path in self._paths()]
        place = {schema_hash: n for n, schema_hash in enumerate(recorded)}
        plans = self.plans(project)
        return sorted(plans, key=lambda plan: place.get(plan.schema_hash, len(place)))

    def kept(self, project: str) -> list[Plan]:
        """Give all plans, those views left out that were retired and are not declared now."""
        plans = self.plans(project)
        if not plans:
            return []
        present = {view.state_name for view in plans[-1].views}
        gone = set(self.retired()) - present
        return [
            msgspec.structs.replace(
                plan, views=tuple(v for v in plan.views if v.state_name not in gone)
            )
            for plan in plans
        ]

    def versions(self, project: str) -> list[ViewVersion]:
        """Give every version of every streamed view, by name and number."""
        seen: dict[str, dict[str, tuple[View, list[str]]]] = {}
        for plan in self.in_order(project):
            for view in streamed_views(plan):
                _, hashes = seen.setdefault(view.name, {}).setdefault(meaning_of(view), (view, []))
                hashes.append(plan.schema_hash)
        return [
            ViewVersion(view=view, number=n, plans=tuple(hashes))
            for _, of_view in sorted(seen.items())
            for n, (view, hashes) in enumerate(of_view.values(), start=1)
        ]

    def version(self, project: str, label: str) -> ViewVersion:
        """Give the version ``label`` names. Raises ConfigurationError when there is none."""
        versions = self.versions(project)
        for one in versions:
            if one.label == label:
                return one
        found = ", ".join(one.label for one in versions) or "none"
        raise ConfigurationError(f"wanted a view's version like user_activity@2, found {label!r}; "
                                 f"there are {found}")  # fmt: skip

    def retired(self) -> list[str]:
        """Give the states (``View.state_name``) that are kept no more."""
        try:
            return [str(name) for name in json.loads((self._folder / _RETIRED_FILE).read_bytes())]
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise ConfigurationError(f"{self._folder / _RETIRED_FILE}: {error}") from error

    def set_retired(self, states: Sequence[str]) -> None:
        """Replace the states that are kept no more."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / _RETIRED_FILE
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(sorted(set(states))))
        temporary.replace(path)

    def _paths(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(self._folder.glob("[0-9]*-*.json"))


def meaning_of(view: View) -> str:
    """Give eight hex digits over all that a view's state and values depend on."""
    meaning = (view.state_name, msgspec.json.encode(view).decode())
    return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()[:8]

"""Which views lie in one hash: those keyed alike; and what is remembered of their entities."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from recsys.errors import FeatureError
from recsys.features import names
from recsys.features.categories import Said
from recsys.features.hashes import VERSION_FIELD, version_of
from recsys.features.key_layout import EntityKeys
from recsys.features.plan import Plan
from recsys.features.quality.checker import ValueObserver
from recsys.features.view import View
from recsys.features.view_updates import Update, update_of

CATEGORIES_FIELD = b"~c"
"""What item events said of an item: JSON ``[[effective_ms, known_ms, category], …]``, sorted."""
KEYS = ("category", "item_id", "user_id")
"""What views can be keyed by, alone or together: what behaviour carries."""
Ids = str | tuple[str, ...]
"""Value of the join key of one entity, or of each where there are more, in their order."""

_timeline = msgspec.json.Decoder(list[Said])


class KeyGroup:
    """All views of the same join keys, those of all plans together, and what is remembered.

    Each hash, as far as the stream made it, has a place in one list of each part: an object for
    each costs more than all that is kept in it. A hash that is forgotten leaves its place empty.
    """

    def __init__(self, join_keys: tuple[str, ...], updates: Sequence[Update], project: str) -> None:
        self.join_keys = join_keys
        self.updates = tuple(updates)
        self._keys = EntityKeys(join_keys, project)
        self.place_of: dict[Ids, int] = {}
        """Of the entities that are remembered."""
        self.keys: list[bytes] = []
        self.versions: list[int] = []
        self.blobs: list[list[bytes | None]] = [[] for _ in self.updates]
        """Of each view of the group the states."""
        self.timelines: list[Sequence[Said]] = []
        """What item events said of each item's category; empty for what is no item."""
        fields = [VERSION_FIELD, CATEGORIES_FIELD] if self.is_items else [VERSION_FIELD]
        self._first_state = len(fields)
        fields += [update.view.state_field for update in self.updates]
        self.fields = tuple(fields)
        """What is read of an entity."""

    @property
    def is_items(self) -> bool:
        """Whether its entities are the items, whose categories are kept with them."""
        return self.join_keys == ("item_id",)

    def keys_of(self, ids: Sequence[Ids]) -> list[bytes]:
        """Give the names of the hashes."""
        return self._keys.of_all(ids)

    def remember(
        self, ids: Sequence[Ids], keys: Sequence[bytes], found: Sequence[Sequence[bytes | None]]
    ) -> None:
        """Take in what was read of entities under ``fields``."""
        first = len(self.keys)
        self.place_of.update(zip(ids, range(first, first + len(ids)), strict=True))
        self.keys += keys
        self.versions += [version_of(row[0]) for row in found]
        for column, blobs in enumerate(self.blobs, start=self._first_state):
            blobs += [row[column] for row in found]
        if self.is_items:
            self.timelines += [_timeline.decode(row[1]) if row[1] else () for row in found]

    def forget(self, keys: Iterable[bytes]) -> None:
        """Drop what is remembered of these hashes."""
        for key in keys:
            values = self._keys.values_of(key)
            if values is None:
                continue
            place = self.place_of.pop(values[0] if len(self.join_keys) == 1 else values, None)
            if place is None:
                continue
            self.keys[place] = b""
            for blobs in self.blobs:
                blobs[place] = None
            if self.is_items:
                self.timelines[place] = ()


def groups_of(
    plans: Sequence[Plan],
    states: Collection[str] | None = None,
    observer: ValueObserver | None = None,
) -> list[KeyGroup]:
    """Give the groups of all views of ``plans`` that the stream makes, items first.

    Only those of the given ``states``, if any are. A view in the same layout in several plans is
    made once. Feast's own fields are those of the last plan that has the view so; ``observer`` is
    shown those of windowed aggregates.

    Raises:
        FeatureError: when a view has other keys than behaviour carries.
    """
    views: dict[bytes, View] = {}
    serving: dict[str, bytes] = {}
    for plan in plans:
        for view in streamed_views(plan):
            if states is not None and view.state_name not in states:
                continue
            views[view.state_field] = view
            serving[view.name] = view.state_field
    of_keys: dict[tuple[str, ...], list[Update]] = {("item_id",): []}
    for field, view in sorted(views.items(), key=lambda one: (one[1].name, one[0])):
        update = update_of(view, serves=serving[view.name] == field, observer=observer)
        of_keys.setdefault(view.join_keys, []).append(update)
    return [KeyGroup(keys, updates, plans[0].project) for keys, updates in of_keys.items()]


def streamed_views(plan: Plan) -> list[View]:
    """Give the views the stream makes. Raises FeatureError when one cannot be made."""
    views = [view for view in plan.views if view.is_streamed]
    for view in views:
        check_keys(view)
    return views


def check_keys(view: View) -> None:
    """Raise FeatureError unless behaviour carries the view's join keys."""
    wanted = {
        names.USER_PROFILE: ("user_id",),
        names.USER_HISTORY: ("user_id",),
        names.ITEM_PROFILE: ("item_id",),
    }.get(view.name)
    if view.is_streamed and wanted and not view.aggregates and view.join_keys != wanted:
        raise FeatureError(
            f'view "{view.name}": wanted the join key {wanted[0]}, found {view.join_keys}'
        )
    if view.is_streamed and (not view.join_keys or not set(view.join_keys) <= set(KEYS)):
        raise FeatureError(
            f'view "{view.name}" has aggregations over the join keys {list(view.join_keys)}: '
            f"wanted one or more of {', '.join(KEYS)}, which is what an event carries"
        )


def layout_of(plans: Sequence[Plan]) -> str:
    """Give which states are kept for ``plans``: changes with the declarations of any of them."""
    return "-".join(sorted({v.state_name for plan in plans for v in streamed_views(plan)}))


class DefaultViews:
    """The views that models are fed from, and the keys of their entities."""

    def __init__(self, plan: Plan) -> None:
        self.user_activity: View = plan.view(names.USER_ACTIVITY)
        self.user_history: View = plan.view(names.USER_HISTORY)
        self.user_profile: View = plan.view(names.USER_PROFILE)
        self.item_activity: View = plan.view(names.ITEM_ACTIVITY)
        self.item_profile: View = plan.view(names.ITEM_PROFILE)
        self.pair_activity: View = plan.view(names.USER_CATEGORY_ACTIVITY)
        self.layout = layout_of([plan])
        self.user_key = EntityKeys(self.user_activity.join_keys, plan.project).of
        self.item_key = EntityKeys(self.item_activity.join_keys, plan.project).of
        self._pair_keys = EntityKeys(self.pair_activity.join_keys, plan.project)

    def pair_heads(self, categories: Sequence[str]) -> list[bytes]:
        """Give how the keys of any user in these categories begin: join keys are sorted."""
        return [self._pair_keys.head(category) for category in categories]

    def pair_tail(self, user_id: str) -> bytes:
        """Give how the keys of a user in any category end."""
        return self._pair_keys.tail(user_id)

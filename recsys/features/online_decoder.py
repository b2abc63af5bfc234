"""What the readers of the online store ask Redis for, and what the bytes found mean.

No input or output: ``online.py`` reads the hashes named by a ``wanted_*`` method, blocking or on an
event loop, and hands what it found to the method beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.data.vocabulary import Vocabulary
from recsys.errors import FeatureError, InputError
from recsys.features import names, on_demand
from recsys.features.batch import Bools, Float32s, ItemActivity, Ragged, UserFeatures
from recsys.features.entities import DefaultViews
from recsys.features.finalised import (
    Keys,
    ViewValues,
    payloads_at,
    values_at,
    view_now,
    wanted_states,
)
from recsys.features.framing import unframe
from recsys.features.hashes import Found, Wanted
from recsys.features.history_values import values_of
from recsys.features.one_history import history_of
from recsys.features.plan import Plan
from recsys.features.progress import stored_layout
from recsys.features.time_layout import decode_timestamp
from recsys.features.value_layout import Value, decode_value
from recsys.features.view import View
from recsys.features.view_record import Status, ViewRecord, record_at, status_at


class _Categories(NamedTuple):
    """Those of a vocabulary, as a user's state is read by them."""

    names: tuple[str, ...]
    heads: list[bytes]
    """How the keys of any user in each of them begin; one without a name has none."""
    columns: slice | NDArray[np.int64]
    """Where those with a name stand."""


class OnlineDecoder:
    """Which fields to read, and what the bytes found mean."""

    def __init__(self, plan: Plan) -> None:
        e = self._entities = DefaultViews(plan)
        self._plan = plan
        self._project = plan.project
        tokens = e.user_profile.feature("tokens").field_bytes
        self._user_fields = (
            e.user_activity.state_field,
            e.user_history.state_field,
            tokens,
            e.user_profile.timestamp_field,  # a profile is read as Feast has it
        )
        self._pair_fields = (e.pair_activity.state_field,)
        self._item_fields = (e.item_activity.state_field, e.item_profile.timestamp_field)
        self._known = _Categories((), [], slice(0))
        self._profile_fields = tuple(f.field_bytes for f in e.user_profile.features)

    def wanted_users(self, user_ids: Sequence[str], vocabulary: Vocabulary) -> Wanted:
        """Name the hashes of users, then those of each user with each category."""
        e = self._entities
        wanted: list[tuple[bytes, Sequence[bytes]]] = [
            (e.user_key(user_id), self._user_fields) for user_id in user_ids
        ]
        heads, pair_fields = self._categories_of(vocabulary).heads, self._pair_fields
        for user_id in user_ids:
            tail = e.pair_tail(user_id)
            wanted += [(head + tail, pair_fields) for head in heads]
        return wanted

    def _categories_of(self, vocabulary: Vocabulary) -> _Categories:
        known = self._known
        if vocabulary.categories is not known.names:  # one decoder reads for one bundle
            names_of = vocabulary.categories
            columns = [g for g, category in enumerate(names_of) if category]
            begin, end = (columns[0], columns[-1] + 1) if columns else (0, 0)
            known = self._known = _Categories(
                names_of,
                self._entities.pair_heads([names_of[g] for g in columns]),
                slice(begin, end) if len(columns) == end - begin else np.array(columns),
            )
        return known

    def users(
        self, found: Found, num_users: int, vocabulary: Vocabulary, now_ms: int
    ) -> UserFeatures:
        """Give the features of users at ``now_ms``; an unknown one has ``known=False``, zeros."""
        e = self._entities
        rows = found[:num_users]
        history = _histories(
            payloads_at(e.user_history, [r[1] for r in rows], now_ms), vocabulary, now_ms
        )
        category_activity = np.zeros(
            (num_users, len(vocabulary.categories), len(e.pair_activity.features)),
            dtype=np.float32,
        )
        if pairs := [row[0] for row in found[num_users:]]:
            values = values_at(e.pair_activity, pairs, now_ms)
            values = values.reshape(num_users, -1, category_activity.shape[2])
            category_activity[:, self._categories_of(vocabulary).columns] = values
        return UserFeatures(
            as_of_ms=np.full(num_users, now_ms, dtype=np.int64),
            known=np.array([row.count(None) < len(row) for row in rows], dtype=np.bool_),
            token_hashes=self._tokens(rows, now_ms),
            activity=values_at(e.user_activity, [r[0] for r in rows], now_ms),
            history_index=history[0],
            history_count=history[1],
            history_last_ms=history[2],
            category_activity=category_activity,
        )

    def _tokens(self, rows: Found, now_ms: int) -> Ragged:
        hashes: list[int] = []
        ends = [0]
        for row in rows:
            at = _decoded(row[3])
            if status_at(self._entities.user_profile, at, now_ms) is Status.PRESENT:
                tokens = decode_value(row[2], "string_list")
                if isinstance(tokens, list):
                    hashes += [names.token_hash(token) for token in tokens]  # type: ignore[arg-type]
            ends.append(len(hashes))
        return Ragged(np.array(hashes, dtype=np.int64), np.array(ends, dtype=np.int64))

    def wanted_items(self, item_ids: Sequence[str]) -> Wanted:
        """Name the hashes of items."""
        key, fields = self._entities.item_key, self._item_fields
        return [(key(item_id), fields) for item_id in item_ids]

    def items(self, found: Found, now_ms: int) -> ItemActivity:
        """Give the moving features of items at ``now_ms``."""
        view = self._entities.item_activity
        known: Bools = np.array([any(v is not None for v in r) for r in found], dtype=np.bool_)
        return ItemActivity(
            as_of_ms=now_ms,
            known=known,
            activity=values_at(view, [r[0] for r in found], now_ms),
        )

    def wanted_view(self, name: str, keys: Keys) -> Wanted:
        """Name the hashes of a view's entities. Raises FeatureError when there is no such view."""
        view = self._plan.view(name)
        return wanted_states(view, self._project, keys)

    def view(self, name: str, found: Found, now_ms: int) -> ViewValues:
        """Give a view of aggregates at ``now_ms``."""
        return view_now(self._plan.view(name), [row[0] for row in found], now_ms)

    def wanted_on_demand(self, name: str, keys: Keys) -> Wanted:
        """Name the hashes an on-demand view is made of: all entities of its first source, and on.

        Raises:
            InputError: when there are not as many of each key.
            FeatureError: when the plan has no such view.
        """
        views = self._plan.sources_of(name)
        used = {key for view in views for key in view.join_keys}
        sizes = {key: len(keys[key]) for key in sorted(used) if key in keys}
        if len(set(sizes.values())) > 1:
            raise InputError(f'on-demand view "{name}": wanted as many of each key; found {sizes}')
        return [one for view in views for one in wanted_states(view, self._project, keys)]

    def on_demand(
        self, name: str, found: Found, request: Mapping[str, Any], now_ms: int
    ) -> dict[str, NDArray[Any]]:
        """Give the features ``[Q]`` of an on-demand view at ``now_ms``, by name.

        Raises:
            InputError: when a field is absent, or they are not of one length.
        """
        view = self._plan.on_demand_view(name)
        sources = view.source_views
        sizes = {len(found) // len(sources)} if sources else {len(v) for v in request.values()}
        if len(sizes) != 1:
            raise InputError(
                f'on-demand view "{name}": wanted inputs of one length; found {sorted(sizes)}'
            )
        (rows,) = sizes
        read: dict[str, tuple[Sequence[str], NDArray[Any]]] = {}
        for n, source in enumerate(sources):
            values = self.view(source, found[n * rows : (n + 1) * rows], now_ms)
            read[source] = (values.names, values.values)
        moments = np.full(rows, now_ms, dtype=np.int64)
        return on_demand.evaluate(view, on_demand.inputs_at(moments, request, read))

    def check_layout(self, found: Found, namespace: str) -> None:
        """Raise FeatureError unless the store of ``namespace`` has what the plan reads."""
        stored, wanted = stored_layout(found), self._entities.layout
        if stored is not None and not set(wanted.split("-")) <= set(stored.split("-")):
            raise FeatureError(
                f"wanted features of layout {wanted}, as in the plan of the bundle; found {stored} "
                "in the store: the stream worker computes other declarations; run `recsys train` "
                "and `recsys publish` on the present ones, or put feature_repo back as it was and "
                "run `recsys backfill`"
            )
        if self._project != namespace:
            raise FeatureError(
                f'wanted features of project "{self._project}", as in the plan of the bundle; '
                f'found a store written for "{namespace}"; run `recsys train` and `recsys publish` '
                "in this namespace, or set RECSYS_NAMESPACE to the bundle's"
            )

    def wanted_profile(self, user_id: str, vocabulary: Vocabulary) -> Wanted:
        """Name the hashes of one user, the values of the profile among the fields."""
        user, *pairs = self.wanted_users([user_id], vocabulary)
        return [(user[0], (*user[1], *self._profile_fields)), *pairs]

    def profile(self, found: Found, vocabulary: Vocabulary, now_ms: int) -> dict[str, ViewRecord]:
        """Give all that is known about a user, by view; a category's under ``view/category``."""
        e = self._entities
        user = found[0]
        records = {
            names.USER_PROFILE: record_at(e.user_profile, _decoded(user[3]), now_ms),
            names.USER_ACTIVITY: record_at(e.user_activity, _newest(user[0]), now_ms),
            names.USER_HISTORY: record_at(e.user_history, _newest(user[1]), now_ms),
        }
        told = user[4:]
        if records[names.USER_HISTORY].status is Status.PRESENT:
            records[names.USER_HISTORY].values.update(values_of(user[1]))
        if records[names.USER_PROFILE].status is Status.PRESENT:
            records[names.USER_PROFILE].values.update(
                (feature.name, decode_value(value, feature.type))
                for feature, value in zip(e.user_profile.features, told, strict=True)
            )
        if records[names.USER_ACTIVITY].status is Status.PRESENT:
            values = values_at(e.user_activity, [user[0]], now_ms)[0]
            records[names.USER_ACTIVITY].values.update(_named(e.user_activity, values))
        categories = [category for category in vocabulary.categories if category]
        for category, (state,) in zip(categories, found[1:], strict=True):
            record = record_at(e.pair_activity, _newest(state), now_ms)
            if record.status is Status.MISSING:
                continue
            if record.status is Status.PRESENT:
                values = values_at(e.pair_activity, [state], now_ms)[0]
                record.values.update(_named(e.pair_activity, values))
            records[f"{names.USER_CATEGORY_ACTIVITY}/{category}"] = record
        return records


def _histories(
    payloads: Sequence[bytes], vocabulary: Vocabulary, now_ms: int
) -> tuple[Ragged, Ragged, Ragged]:
    """Give rows, counts and latest times of the items of each user that have a row."""
    row_of = vocabulary.index_of.get
    rows: list[int] = []
    counts: list[int] = []
    last_ms: list[int] = []
    ends = [0]
    for payload in payloads:
        if payload:
            times: Iterable[int]
            times_ms: Iterable[int]
            ids, times, times_ms = history_of(payload, now_ms)
            found = [row_of(item_id.decode()) for item_id in ids]
            if None in found:
                kept = [row is not None for row in found]
                times, times_ms = compress(times, kept), compress(times_ms, kept)
            rows += [row for row in found if row is not None]
            counts += times
            last_ms += times_ms
        ends.append(len(rows))
    offsets = np.array(ends, dtype=np.int64)
    return (
        Ragged(np.array(rows, dtype=np.int32), offsets),
        Ragged(np.array(counts, dtype=np.float32), offsets),
        Ragged(np.array(last_ms, dtype=np.int64), offsets),
    )


def _named(view: View, values: Float32s) -> dict[str, Value]:
    return dict(zip(view.feature_names, values.tolist(), strict=True))


def _newest(state: bytes | None) -> int | None:
    """Give the time of the newest event in a state."""
    return None if state is None else int(unframe([state]).newest_ms[0])


def _decoded(timestamp: bytes | None) -> int | None:
    return None if timestamp is None else decode_timestamp(timestamp)

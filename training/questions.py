"""Point-in-time joins: what was known of users and items at the moments that are learned from.

Every feature is asked for a millisecond before the label it helps to predict.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys.bundle.manifest import Objective
from recsys.data.examples import labels_after, question_moments
from recsys.data.impressions import ShownLists
from recsys.data.interactions import Interactions
from recsys.data.splits import TimeSplit
from recsys.data.vocabulary import Vocabulary
from recsys.features.batch import Int64s, Ragged, UserFeatures
from recsys.features.history import ItemHistory, UserHistory
from recsys.models.encode import UserEncoding, encode_users
from recsys.models.request_tokens import REQUEST_TOKENS, request_tokens
from training.checks import check_request_keys
from training.logged_lists import LoggedLists
from training.prepared import Context, QuestionRound, RaggedTensor
from training.progress import Progress
from training.recipes import Recipe
from training.shown_lists import drawn, grid_ms, rankers_lists

_CHUNK = 2048


class QuestionMaker:
    """Point-in-time joins of one run."""

    def __init__(
        self,
        past: Interactions,
        users: UserHistory,
        items: ItemHistory,
        encoding: UserEncoding,
        progress: Progress,
    ) -> None:
        self._past = past
        self._users = users
        self._items = items
        self._encoding = encoding
        self._progress = progress
        self._ids = np.array(past.user_ids, dtype=object)

    def context(self, user: Int64s, moments_ms: Int64s, what: str) -> Context:
        """Give the user tensors of user codes at moments."""
        return encoded(
            self._users, self._ids[user], moments_ms, self._encoding, self._progress, what
        )

    def activity(self, moment_ms: int) -> Tensor:
        """Give ``[N + 1, Fi]`` item features at a moment."""
        found = self._items.activity_at(None, moment_ms).activity
        return torch.from_numpy(np.concatenate([np.zeros_like(found[:1]), found]))

    def window_rounds(
        self,
        recipe: Recipe,
        objectives: Sequence[Objective],
        split: TimeSplit,
        rng: np.random.Generator,
    ) -> tuple[QuestionRound, ...]:
        """Give rounds of "what will this user take in the window after this moment?"."""
        check_request_keys((), self._encoding.request_keys)
        config = recipe.ranker
        window_ms = min(config.window_ms, int((split.test_from_ms - split.ranker_from_ms) * 0.6))
        moments = question_moments(
            from_ms=split.ranker_from_ms, until_ms=split.test_from_ms,
            every_ms=min(config.every_ms, max(window_ms // 2, 1)), window_ms=window_ms,
        )  # fmt: skip
        rounds = []
        for moment_ms in moments.tolist():
            known = np.unique(self._past.user[self._past.time_ms < moment_ms])
            found = [
                labels_after(
                    self._past.where(self._past.of_type(o.interaction, min_value=o.min_value)),
                    from_ms=moment_ms,
                    until_ms=moment_ms + window_ms,
                )
                for o in objectives
            ]
            active = np.intersect1d(found[0][0], known)
            limit = max(config.max_lists // (2 * len(moments)), 1)
            chosen = drawn(active, limit, rng)
            idle = np.setdiff1d(known, active)
            some_idle = drawn(idle, min(config.idle_lists, limit), rng)
            asked = np.concatenate([chosen, some_idle])
            if len(chosen) == 0:
                continue
            weight = np.concatenate(
                [
                    np.full(len(chosen), len(active) / len(chosen)),
                    np.full(len(some_idle), len(idle) / max(len(some_idle), 1)),
                ]
            )
            context = self.context(
                asked, np.full(len(asked), moment_ms - 1, dtype=np.int64), "questions"
            )
            rounds.append(
                QuestionRound(
                    as_of_ms=moment_ms - 1,
                    activity=self.activity(moment_ms - 1),
                    context=context,
                    labels=tuple(RaggedTensor.of(_of_users(f, asked)) for f in found),
                    weight=torch.from_numpy(weight).float(),
                )
            )
        return tuple(rounds)

    def shown_rounds(
        self,
        log: pl.DataFrame,
        vocabulary: Vocabulary,
        recipe: Recipe,
        objectives: Sequence[Objective],
        split: TimeSplit,
        rng: np.random.Generator,
    ) -> tuple[QuestionRound, ...]:
        """Give the lists that were shown in the ranker's part, with what came of them."""
        config = recipe.ranker
        lists, usable = rankers_lists(log, vocabulary, config, objectives, split)
        chosen = drawn(usable, config.max_lists, rng)
        step_ms = grid_ms(config, split)
        cell = (lists.time_ms[chosen] - split.ranker_from_ms) // step_ms
        rounds = []
        for value in np.unique(cell).tolist():
            rows = chosen[cell == value]
            as_of_ms = (
                min(split.ranker_from_ms + value * step_ms, int(lists.time_ms[rows].min())) - 1
            )
            context = encoded(
                self._users, lists.user_id[rows], lists.time_ms[rows] - 1, self._encoding,
                self._progress, "lists",
            )  # fmt: skip
            if keys := self._encoding.request_keys:
                said = request_tokens([lists.said(row) for row in rows.tolist()], keys)
                context[REQUEST_TOKENS] = torch.from_numpy(said)
            rounds.append(self._shown(lists, rows, as_of_ms, context))
        check_request_keys([r.context for r in rounds], self._encoding.request_keys)
        return tuple(rounds)

    def logged_rounds(
        self, logged: LoggedLists, recipe: Recipe, split: TimeSplit
    ) -> tuple[QuestionRound, ...]:
        """Give the same with users as they were logged; items are joined.

        Lists share a state of the items when the serving tables they were answered from were of
        moments less than ``refresh_ms`` apart; that state is the earliest of these moments.
        """
        cell = logged.item_moment_ms // grid_ms(recipe.ranker, split)
        rounds = []
        for value in np.unique(cell).tolist():
            of_cell = np.flatnonzero(cell == value)
            as_of_ms = int(logged.item_moment_ms[of_cell].min())
            context = {n: torch.from_numpy(v[of_cell]) for n, v in logged.context.items()}
            rounds.append(self._shown(logged.lists, logged.row[of_cell], as_of_ms, context))
        check_request_keys([r.context for r in rounds], self._encoding.request_keys)
        return tuple(rounds)

    def _shown(
        self, lists: ShownLists, rows: Int64s, as_of_ms: int, context: Context
    ) -> QuestionRound:
        return QuestionRound(
            as_of_ms=as_of_ms,
            activity=self.activity(as_of_ms),
            context=context,
            labels=(),
            weight=torch.ones(len(rows)),
            shown=torch.from_numpy(lists.item[rows]),
            shown_position=torch.from_numpy(lists.position[rows]),
            shown_label=torch.from_numpy(lists.label[rows]),
        )


def encoded(
    users: UserHistory,
    user_ids: Sequence[str] | np.ndarray,
    moments_ms: Int64s,
    encoding: UserEncoding,
    progress: Progress,
    what: str,
) -> Context:
    """Join and encode users at moments, in chunks."""
    parts: list[dict[str, np.ndarray]] = []
    starts = range(0, max(len(moments_ms), 1), _CHUNK)
    for begin in progress.track(starts, f"features of {what}"):
        rows = slice(begin, begin + _CHUNK)
        found: UserFeatures = users.features_at(list(user_ids[rows]), moments_ms[rows])
        parts.append(encode_users(found, encoding))
    return {
        name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]
    }


def _of_users(found: tuple[Int64s, Ragged], wanted: Int64s) -> Ragged:
    """Give the label rows of ``wanted`` users, empty for those without."""
    users, ragged = found
    place = np.searchsorted(users, wanted)
    there = (place < len(users)) & (users[np.minimum(place, len(users) - 1)] == wanted) if len(
        users
    ) else np.zeros(len(wanted), dtype=np.bool_)  # fmt: skip
    place = np.where(there, place, 0)
    begin = np.where(there, ragged.offsets[place], 0)
    end = np.where(there, ragged.offsets[np.minimum(place + 1, len(ragged.offsets) - 1)], 0)
    lengths = end - begin
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    index = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], lengths)
    return Ragged(ragged.values[index], offsets)

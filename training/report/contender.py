"""A bundle that is judged: its model as it answers just before the test, over the log's items.

A bundle has a vocabulary of its own, and maybe a feature plan of its own; lists come back in the
rows of the log's vocabulary, so that two bundles are compared on the same users and items.

Axes: ``B`` users, ``K`` places, ``N`` items of the log, ``M`` of the bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from recsys.bundle.manifest import Objective
from recsys.data.catalogue import Catalogue
from recsys.data.vocabulary import Vocabulary
from recsys.features.batch import Float32s, Int32s, Int64s, Ragged
from recsys.features.history import ItemHistory, UserHistory
from recsys.inference.compute import answer
from recsys.models.encode import UserEncoding
from recsys.models.serving_model import ServingModel
from training.prepared import Context
from training.progress import Progress
from training.questions import encoded
from training.report.protocol import NEW, HeldOut, Question, View, mapped

CHUNK = 128


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A loaded bundle and the readers of its features."""

    name: str
    model: ServingModel
    vocabulary: Vocabulary
    users: UserHistory
    items: ItemHistory
    encoding: UserEncoding
    objectives: tuple[Objective, ...]
    num_candidates: int

    def at(self, held_out: HeldOut, catalogue: Catalogue) -> None:
        """Set items as they were just before the test: moving features, and what was on offer."""
        moment_ms = held_out.test_from_ms - 1
        found = self.items.activity_at(None, moment_ms).activity
        activity = torch.from_numpy(np.concatenate([np.zeros_like(found[:1]), found]))
        self.model.items.set_activity(activity, moment_ms)
        was = np.concatenate([[False], catalogue.was_available])
        row = rows_in(held_out.vocabulary, self.vocabulary)
        available = np.zeros(self.vocabulary.num_items + 1, dtype=np.bool_)
        there = (row > 0) & was
        available[row[there]] = True
        self.model.items.set_available(torch.from_numpy(available))

    def vectors_in(self, vocabulary: Vocabulary) -> Float32s:
        """Give ``[N + 1, D]`` item vectors in the rows of ``vocabulary``; zeros where unknown."""
        own = self.model.item_vectors().float().cpu().numpy()
        found: Float32s = own[rows_in(vocabulary, self.vocabulary)]
        return found

    def contexts(
        self, user_ids: Sequence[str] | np.ndarray, moments_ms: Int64s, progress: Progress,
        what: str,
    ) -> Context:  # fmt: skip
        """Give the user tensors at moments."""
        return encoded(self.users, user_ids, moments_ms, self.encoding, progress, what)

    def lists(
        self, held_out: HeldOut, question: Question, context: Context, *, view: View, k: int,
        progress: Progress,
    ) -> Int32s:  # fmt: skip
        """Give ``[B, k]`` rows of the log's vocabulary as requests would get them, 0 pads."""
        to_bundle = rows_in(held_out.vocabulary, self.vocabulary)
        to_log = rows_in(self.vocabulary, held_out.vocabulary)
        exclude = mapped(with_all(question.banned, held_out.later), to_bundle)
        found = served_lists(
            self.model, context, exclude, exclude_history=view == NEW, k=k,
            num_candidates=self.num_candidates, progress=progress, what=f"{view}, {self.name}",
        )  # fmt: skip
        return to_log[found]


def rows_in(source: Vocabulary, target: Vocabulary) -> Int32s:
    """Give ``[source + 1]`` each row's place in ``target``; 0 where it has none."""
    if source.item_ids == target.item_ids:
        return np.arange(source.num_items + 1, dtype=np.int32)
    return np.concatenate([[0], target.indexes(source.item_ids)]).astype(np.int32)


def served_lists(
    model: ServingModel,
    context: Context,
    exclude: Ragged,
    *,
    exclude_history: bool,
    k: int,
    num_candidates: int,
    progress: Progress,
    what: str,
) -> Int32s:
    """Give ``[B, k]`` items as a request would get them, 0 pads."""
    num_users = len(context["history_index"])
    out = np.zeros((num_users, k), dtype=np.int32)
    # Users with histories of like length go together: the sources skip common padding.
    order = (context["history_index"] != 0).sum(dim=1).argsort(stable=True)
    for rows in progress.track(order.split(CHUNK), f"answers ({what})"):
        own = [exclude.row(row) for row in rows.tolist()]
        banned = np.zeros((len(own), max(1, *(len(items) for items in own))), dtype=np.int32)
        for row, items in enumerate(own):
            banned[row, : len(items)] = items
        answered = answer(
            model,
            {name: tensor[rows] for name, tensor in context.items()}
            | {
                "exclude_index": torch.from_numpy(banned),
                "exclude_history": torch.full((len(own), 1), exclude_history),
                "k": torch.full((len(own), 1), k, dtype=torch.int32),
            },
            num_candidates=num_candidates,
        )["item_index"]
        out[rows.numpy(), : answered.shape[1]] = answered.cpu().numpy()
    return out


def with_all(ragged: Ragged, extra: Int32s) -> Ragged:
    """Append the same items to every row."""
    if len(extra) == 0:
        return ragged
    rows = [np.concatenate([ragged.row(b).astype(np.int32), extra]) for b in range(len(ragged))]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Ragged(np.concatenate(rows), offsets)

"""The ranker's lists, made by the very retrieval that serves, and a step on them.

Data without impressions give each question two lists: one with everything and one without the
user's history, which are the two ways the API asks. Data with impressions give the shown list and
some items that were not shown.

Axes: ``E`` questions, ``L`` lists, ``C`` candidates, ``S`` sources, ``O`` objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.losses import listwise_softmax, weighted_cross_entropy
from recsys.models.ranker import Ranker
from recsys.models.serving import TorchServingModel
from recsys.models.serving_model import Candidates
from training.loop import Phase, World
from training.prepare import Context, Prepared, QuestionRound
from training.recipes import RankerTraining

_CHUNK = 256
SECOND_OBJECTIVE_SHARE = 0.3
"""Weight of the losses of objectives after the first: they are learned beside it, not for it."""


@dataclass(frozen=True, kw_only=True)
class RoundLists:
    """Lists that share one state of the items."""

    activity: Tensor
    context: Context
    user_vectors: Tensor
    """``[E, D]``."""
    question: Tensor
    """``[L]`` row of ``context``."""
    candidate: Tensor
    """``[L, C]`` int32."""
    source_score: Tensor
    """``[L, C, S]``."""
    label: Tensor
    """``[L, C, O]`` uint8."""
    log_q: Tensor
    """``[L, C]`` logarithm of the chance with which the place came into the list at all."""
    weight: Tensor
    """``[L]``."""


def lists_of_round(
    prepared: Prepared, question: QuestionRound, model: TorchServingModel, *, seed: int
) -> RoundLists:
    """Make the lists of one round with the sources of ``model``."""
    if question.shown is None:
        return _retrieved(prepared, question, model)
    return _shown(prepared, question, model, torch.Generator().manual_seed(seed))


def _retrieved(
    prepared: Prepared, question: QuestionRound, model: TorchServingModel
) -> RoundLists:
    width = min(prepared.recipe.num_candidates, model.num_items)
    later = (prepared.first_seen_ms > question.as_of_ms).nonzero().flatten().int()
    parts: list[tuple[Tensor, Candidates, Tensor]] = []
    for rows in torch.arange(len(question.weight)).split(_CHUNK):
        context = {k: v[rows] for k, v in question.context.items()}
        taken = _taken(question, rows, model.num_items)
        for without_history in (False, True):
            found = model.retrieve(
                context,
                num_candidates=width,
                exclude_index=later.expand(len(rows), -1),
                exclude_history=torch.full((len(rows), 1), without_history),
            )
            index = found.item_index.cpu().long()
            label = taken.gather(1, index.unsqueeze(2).expand(-1, -1, taken.shape[2]))
            parts.append((rows, Candidates(found.item_index.cpu(), found.source_score.cpu()), label))
    questions = torch.cat([rows for rows, _, _ in parts])
    candidate = torch.cat([found.item_index for _, found, _ in parts])
    return RoundLists(
        activity=question.activity,
        context=question.context,
        user_vectors=model.user_vectors(question.context).cpu(),
        question=questions,
        candidate=candidate,
        source_score=torch.cat([found.source_score for _, found, _ in parts]),
        label=torch.cat([label for _, _, label in parts]),
        log_q=torch.zeros(candidate.shape),
        weight=question.weight[questions],
    )


def _taken(question: QuestionRound, rows: Tensor, num_items: int) -> Tensor:
    """Give ``[rows, N + 1, O]`` uint8: what each user took in the window."""
    taken = torch.zeros(len(rows), num_items + 1, len(question.labels), dtype=torch.uint8)
    for objective, labels in enumerate(question.labels):
        taken[:, :, objective].scatter_(1, labels.padded(rows), 1)
    taken[:, 0] = 0
    return taken


def _shown(
    prepared: Prepared, question: QuestionRound, model: TorchServingModel,
    generator: torch.Generator,
) -> RoundLists:  # fmt: skip
    assert question.shown is not None and question.shown_label is not None
    num_lists, num_items = len(question.shown), model.num_items
    extra = prepared.recipe.ranker.random_negatives
    drawn = torch.randint(1, num_items + 1, (num_lists, extra), generator=generator).int()
    is_shown = (drawn.unsqueeze(2) == question.shown.unsqueeze(1)).any(dim=2)
    is_later = prepared.first_seen_ms[drawn.long()] > question.as_of_ms
    drawn = drawn.masked_fill(is_shown | is_later, 0)
    candidate = torch.cat([question.shown, drawn], dim=1)
    label = F.pad(question.shown_label, (0, 0, 0, extra)).to(torch.uint8)
    # Shown items are there with certainty. Drawn ones stand for the catalogue in the probabilities
    # only as themselves: nobody knows what would have come of showing them.
    scores = [
        model.score_sources(
            {k: v[rows] for k, v in question.context.items()}, candidate[rows]
        ).source_score.cpu()
        for rows in torch.arange(num_lists).split(_CHUNK)
    ]
    return RoundLists(
        activity=question.activity, context=question.context,
        user_vectors=model.user_vectors(question.context).cpu(),
        question=torch.arange(num_lists), candidate=candidate, source_score=torch.cat(scores),
        label=label, log_q=torch.zeros(candidate.shape), weight=question.weight,
    )  # fmt: skip


class RankerSteps:
    """Draws batches of lists and their loss."""

    def __init__(
        self,
        prepared: Prepared,
        ranker: Ranker,
        rounds: Sequence[RoundLists],
        item_vectors: Tensor,
        world: World,
    ) -> None:
        self._config: RankerTraining = prepared.recipe.ranker
        self._ranker = ranker
        self._rounds = rounds
        self._items = item_vectors.to(world.device)
        self._world = world
        self._fit_scales()

    def phase(self, name: str) -> Phase:
        """Give the phase that trains the ranker on these lists."""
        return Phase(
            name=name, module=self._ranker, batches=self._batches, loss=self._loss,
            epochs=self._config.epochs, learning_rate=self._config.learning_rate,
            weight_decay=self._config.weight_decay,
        )  # fmt: skip

    @torch.no_grad()
    def _fit_scales(self) -> None:
        """Standardise inputs by what the lists hold."""
        dense = torch.cat([r.context["user_dense"] for r in self._rounds])
        self._ranker.user_dense.fit(dense.to(self._world.device))
        activity = torch.cat([r.activity[1:] for r in self._rounds])
        self._ranker.item_dense.fit(activity.to(self._world.device))
        crossed = []
        generator = torch.Generator().manual_seed(0)
        for number, lists in enumerate(self._rounds):
            some = torch.randperm(len(lists.question), generator=generator)[:512]
            context, vectors, candidates = self._inputs(number, some, lists.candidate[some].long())
            half = self._ranker.user_half(context, vectors)
            cross = self._ranker.cross_features(context, half, candidates)
            crossed.append(cross[candidates.item_index != 0])
        self._ranker.cross_scale.fit(torch.cat(crossed))

    def _batches(self, generator: torch.Generator) -> list[tuple[int, Tensor]]:
        batches = []
        for number, lists in enumerate(self._rounds):
            order = torch.randperm(len(lists.question), generator=generator)
            batches += [(number, rows) for rows in order.split(self._config.batch_lists)]
        batches = [b for b in batches if len(b[1]) >= self._world.size]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator)]

    def _inputs(
        self, number: int, rows: Tensor, index: Tensor, place: Tensor | None = None
    ) -> tuple[Context, Tensor, Candidates]:
        lists, device = self._rounds[number], self._world.device
        question = lists.question[rows]
        context = {k: v[question].to(device) for k, v in lists.context.items()}
        scores = lists.source_score[rows]
        if place is not None:
            scores = scores.gather(1, place.unsqueeze(2).expand(-1, -1, scores.shape[2]))
        return (
            context,
            lists.user_vectors[question].to(device),
            Candidates(index.to(device), scores.to(device)),
        )

    def _loss(self, batch: tuple[int, Tensor], generator: torch.Generator) -> Tensor:
        number, every_row = batch
        rows = every_row[self._world.rank :: self._world.size]
        lists, device = self._rounds[number], self._world.device
        place, kept_log_q = _thin(
            lists.candidate[rows], lists.label[rows], self._config.list_length, generator
        )
        index = lists.candidate[rows].long().gather(1, place)
        label = lists.label[rows].gather(
            1, place.unsqueeze(2).expand(-1, -1, lists.label.shape[2])
        ).float().to(device)  # fmt: skip
        log_q = (lists.log_q[rows].gather(1, place) + kept_log_q).to(device)
        context, vectors, candidates = self._inputs(number, rows, index, place)
        output = self._ranker(context, vectors, self._items, lists.activity.to(device), candidates)
        mask = candidates.item_index != 0
        weight = (-log_q).exp() * lists.weight[rows].to(device).unsqueeze(1) * mask
        total = output.order.new_zeros(())
        for objective in range(label.shape[2]):
            share = 1.0 if objective == 0 else SECOND_OBJECTIVE_SHARE
            order, wanted = output.order[:, :, objective], label[:, :, objective]
            total = total + share * listwise_softmax(order, wanted, mask, log_q)
            total = total + share * weighted_cross_entropy(
                output.probability[:, :, objective], wanted, weight
            )
        return total


def _thin(
    candidate: Tensor, label: Tensor, width: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose ``width`` places of each list: all positives, the rest drawn evenly.

    Returns:
        ``[B, width]`` places, and the logarithm of the chance each was kept with (0 for positives;
        lists with more positives than places keep the first ones drawn).
    """
    is_item = candidate != 0
    positive = (label != 0).any(dim=2) & is_item
    width = min(width, candidate.shape[1])
    key = torch.rand(candidate.shape, generator=generator)
    key = key + positive * 2.0 - (~is_item) * 2.0
    place = key.topk(width, dim=1).indices
    num_positive = positive.sum(1, keepdim=True).clamp(max=width)
    num_negative = (is_item.sum(1, keepdim=True) - num_positive).clamp(min=1)
    kept = ((width - num_positive) / num_negative).clamp(min=1e-6, max=1.0)
    log_q = torch.where(positive.gather(1, place), 0.0, kept.log())
    return place, log_q



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
from recsys.models.ranker import Ranker, RankerOutput
from recsys.models.request_tokens import REQUEST_TOKENS
from recsys.models.serving import TorchServingModel
from recsys.models.serving_model import Candidates
from training.distillation import Opinions, Teaching, gathered, opinion
from training.loop import Phase, World
from training.prepared import Context, Prepared, QuestionRound
from training.recipes import RankerTraining

_CHUNK = 256
RANKER_INPUTS = (
    "history_index", "history_count", "history_age_s", "user_tokens", "user_dense",
)  # fmt: skip
"""Of the user context, beside what went into the cross features; request tokens if there are."""
SECOND_OBJECTIVE_SHARE = 0.3
"""Weight of the losses of objectives after the first: they are learned beside it, not for it."""


@dataclass(frozen=True, kw_only=True)
class RoundLists:
    """Lists that share one state of the items, thinned to what steps look at."""

    activity: Tensor
    """``[N + 1, Fi]``."""
    context: Context
    """``[E, ...]`` user tensors that the ranker looks at."""
    user_vectors: Tensor
    """``[E, D]``."""
    question: Tensor
    """``[L]`` row of the two above."""
    candidate: Tensor
    """``[L, W]`` int32, 0 pads."""
    cross: Tensor
    """``[L, W, X]`` raw cross features."""
    label: Tensor
    """``[L, W, O]`` uint8."""
    position: Tensor
    """``[L, W]`` place at which the item was displayed; -1: it was not."""
    log_q: Tensor
    """``[L, W]`` logarithm of the chance with which the place was kept."""
    weight: Tensor
    """``[L]``: how many users the list stands for."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Some lists of a round, thinned."""

    question: Tensor
    candidate: Tensor
    cross: Tensor
    label: Tensor
    position: Tensor
    log_q: Tensor


def lists_of_round(
    prepared: Prepared, question: QuestionRound, model: TorchServingModel, ranker: Ranker, *,
    seed: int,
) -> RoundLists:  # fmt: skip
    """Make the lists of one round with the sources of ``model``."""
    generator = torch.Generator().manual_seed(seed)
    make = _retrieved if question.shown is None else _shown
    # Users with histories of like length go together: the sources skip common padding.
    order = (question.context["history_index"] != 0).sum(dim=1).argsort(stable=True)
    parts = [
        part
        for rows in order.split(_CHUNK)
        for part in make(prepared, question, rows, model, ranker, generator)
    ]
    questions = torch.cat([part.question for part in parts])
    return RoundLists(
        activity=question.activity,
        context={
            name: question.context[name]
            for name in (*RANKER_INPUTS, REQUEST_TOKENS)
            if name in question.context
        },
        user_vectors=model.user_vectors(question.context).cpu().clone(),
        question=questions,
        candidate=torch.cat([part.candidate for part in parts]),
        cross=torch.cat([part.cross for part in parts]),
        label=torch.cat([part.label for part in parts]),
        position=torch.cat([part.position for part in parts]),
        log_q=torch.cat([part.log_q for part in parts]),
        weight=question.weight[questions],
    )


def _retrieved(
    prepared: Prepared, question: QuestionRound, rows: Tensor, model: TorchServingModel,
    ranker: Ranker, generator: torch.Generator,
) -> list[_Part]:  # fmt: skip
    context = {k: v[rows] for k, v in question.context.items()}
    taken = _taken(question, rows, model.num_items)
    prepared_context = model.prepare(context)
    later = (prepared.first_seen_ms > question.as_of_ms).nonzero().flatten().int()
    parts = []
    for without_history in (False, True):
        found = model.retrieve(
            prepared_context,
            num_candidates=min(prepared.recipe.num_candidates, model.num_items),
            exclude_index=later.expand(len(rows), -1),
            exclude_history=torch.full((len(rows), 1), without_history),
        )  # fmt: skip
        index = found.item_index.cpu().long()
        label = taken.gather(1, index.unsqueeze(2).expand(-1, -1, taken.shape[2]))
        nowhere = torch.full_like(index, -1)
        parts.append(
            _part(prepared, question, rows, context, found, label, nowhere, ranker, generator)
        )
    return parts


def _taken(question: QuestionRound, rows: Tensor, num_items: int) -> Tensor:
    """Give ``[rows, N + 1, O]`` uint8: what each user took in the window."""
    taken = torch.zeros(len(rows), num_items + 1, len(question.labels), dtype=torch.uint8)
    for objective, labels in enumerate(question.labels):
        taken[:, :, objective].scatter_(1, labels.padded(rows), 1)
    taken[:, 0] = 0
    return taken


def _shown(
    prepared: Prepared, question: QuestionRound, rows: Tensor, model: TorchServingModel,
    ranker: Ranker, generator: torch.Generator,
) -> list[_Part]:  # fmt: skip
    assert question.shown is not None and question.shown_label is not None
    shown, num_items = question.shown[rows], model.num_items
    extra = prepared.recipe.ranker.random_negatives
    drawn = torch.randint(1, num_items + 1, (len(rows), extra), generator=generator).int()
    is_shown = (drawn.unsqueeze(2) == shown.unsqueeze(1)).any(dim=2)
    is_later = prepared.first_seen_ms[drawn.long()] > question.as_of_ms
    drawn = drawn.masked_fill(is_shown | is_later, 0)
    label = F.pad(question.shown_label[rows], (0, 0, 0, extra)).to(torch.uint8)
    context = {k: v[rows] for k, v in question.context.items()}
    found = model.score_sources(context, torch.cat([shown, drawn], dim=1))
    places = question.shown_position
    position = torch.full_like(shown, -1) if places is None else places[rows]
    position = F.pad(position.long(), (0, extra), value=-1)
    return [_part(prepared, question, rows, context, found, label, position, ranker, generator)]


def _part(
    prepared: Prepared, question: QuestionRound, rows: Tensor, context: Context,
    found: Candidates, label: Tensor, position: Tensor, ranker: Ranker, generator: torch.Generator,
) -> _Part:  # fmt: skip
    candidate, device = found.item_index.cpu(), found.source_score.device
    place, log_q = _thin(candidate, label, prepared.recipe.ranker.list_length, generator)

    def thinned(values: Tensor) -> Tensor:
        return values.gather(
            1, place.to(values.device).unsqueeze(2).expand(-1, -1, values.shape[2])
        )

    kept = candidate.gather(1, place)
    with torch.inference_mode():
        cross = ranker.cross_features(
            {k: v.to(device) for k, v in context.items()},
            Candidates(kept.to(device), thinned(found.source_score)),
            question.activity.to(device),
        ).cpu()
    # Out of inference mode: what is kept takes part in training.
    return _Part(
        question=rows, candidate=kept.clone(), cross=cross.clone(), label=thinned(label),
        position=position.gather(1, place), log_q=log_q,
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
        teaching: Teaching | None = None,
    ) -> None:
        """``teaching``: what a teacher thinks of these ``rounds``, where there is one."""
        self._config: RankerTraining = prepared.recipe.ranker
        self._teaching = teaching
        self._ranker = ranker
        self._rounds = rounds
        self._items = item_vectors.to(world.device)
        self._activity = [lists.activity.to(world.device) for lists in rounds]
        self._world = world
        self._fit_scales()

    def phase(self, name: str, *, epochs: int | None = None) -> Phase:
        """Give the phase that trains the ranker on these lists; ``epochs``: not the recipe's."""
        config = self._config
        return Phase(
            name=name, module=self._ranker, batches=self._batches, loss=self._loss,
            epochs=config.epochs if epochs is None else epochs,
            learning_rate=config.learning_rate, weight_decay=config.weight_decay,
        )  # fmt: skip

    @torch.no_grad()
    def _fit_scales(self) -> None:
        """Standardise inputs, and begin the probabilities at the rates the lists hold."""
        device, ranker = self._world.device, self._ranker
        dense = torch.cat([r.context["user_dense"] for r in self._rounds])
        ranker.user_dense.fit(dense.to(device))
        ranker.item_dense.fit(torch.cat([r.activity[1:] for r in self._rounds]).to(device))
        if ranker.config.user_rates:
            ranker.user_rates.fit(dense.to(device))
        if ranker.config.item_rates:
            ranker.item_rates.fit(torch.cat([r.activity[1:] for r in self._rounds]).to(device))
        cross = torch.cat([r.cross[r.candidate != 0] for r in self._rounds])
        ranker.cross_scale.fit(cross.to(device))
        if ranker.config.num_positions:
            ranker.position.fit(torch.cat([r.position.flatten() for r in self._rounds]).to(device))
        taken = torch.cat([self._weight(r)[..., None] * r.label for r in self._rounds]).sum((0, 1))
        total = sum(float(self._weight(r).sum()) for r in self._rounds)
        rate = (taken / max(total, 1e-9)).clamp(1e-6, 1 - 1e-6)
        ranker.start_probabilities_at(rate.to(device))
        if self._config.zero_start:
            ranker.start_at_zero()

    @staticmethod
    def _weight(lists: RoundLists) -> Tensor:
        """Give ``[L, W]``: how many (user, candidate) pairs each place stands for."""
        return (-lists.log_q).exp() * lists.weight.unsqueeze(1) * (lists.candidate != 0)

    def _batches(self, generator: torch.Generator) -> list[tuple[int, Tensor]]:
        batches = []
        for number, lists in enumerate(self._rounds):
            order = torch.randperm(len(lists.question), generator=generator)
            batches += [(number, rows) for rows in order.split(self._config.batch_lists)]
        batches = [b for b in batches if len(b[1]) >= self._world.size]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator)]

    @torch.no_grad()
    def opinions(self) -> list[Opinions]:
        """Give what the ranker, as it is now, thinks of every list."""
        self._ranker.eval()
        return [
            gathered(
                [
                    opinion(self._output(number, rows))
                    for rows in torch.arange(len(lists.question)).split(_CHUNK)
                ]
            )
            for number, lists in enumerate(self._rounds)
        ]

    def _output(self, number: int, rows: Tensor) -> RankerOutput:
        """Run the ranker over some lists of a round, each item where it was displayed."""
        lists, device, ranker = self._rounds[number], self._world.device, self._ranker
        question = lists.question[rows]
        items = ranker.item_half(self._activity[number], self._items)
        user = {name: values[question].to(device) for name, values in lists.context.items()}
        return ranker.combine(
            ranker.user_half(user, lists.user_vectors[question].to(device), items),
            items,
            lists.candidate[rows].to(device).long(),
            lists.cross[rows].to(device),
            position=lists.position[rows].to(device),
        )

    def _loss(self, batch: tuple[int, Tensor], generator: torch.Generator) -> Tensor:
        del generator  # lists were thinned when they were made
        number, every_row = batch
        world = self._world
        rows = every_row[world.rank :: world.size]
        lists, device = self._rounds[number], world.device
        output = self._output(number, rows)
        label, log_q = lists.label[rows].float().to(device), lists.log_q[rows].to(device)
        mask = lists.candidate[rows].to(device) != 0
        weight = (-log_q).exp() * lists.weight[rows].to(device).unsqueeze(1) * mask
        total = output.order.new_zeros(())
        for objective in range(label.shape[2]):
            share = 1.0 if objective == 0 else SECOND_OBJECTIVE_SHARE
            order, wanted = output.order[:, :, objective], label[:, :, objective]
            has_positive = (wanted * mask).any(dim=1)
            of_order = listwise_softmax(order, wanted, mask, log_q)
            of_chance = weighted_cross_entropy(output.probability[:, :, objective], wanted, weight)
            # Each is a mean over what this worker has of the batch; workers have unequal parts.
            of_labels = of_order * world.share(has_positive.float())
            of_labels = of_labels + of_chance * world.share(weight)
            if (teaching := self._teaching) is not None:
                taught = teaching.loss(output, number, rows, mask, weight, objective, world)
                of_labels = (1 - teaching.share) * of_labels + teaching.share * taught
            total = total + share * of_labels
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

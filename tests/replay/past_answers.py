"""Answers of a whole bundle through the real pipeline, and the exposures the API writes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import torch

from benchmarks.loadtest.untrained_bundle import NUM_CANDIDATES, add_untrained_bundle
from recsys.bundle.load import load_serving_model
from recsys.bundle.served import ServedBundle, load_served_bundle
from recsys.bundle.store import BundleStore
from recsys.data.vocabulary import Vocabulary
from recsys.deadline import Deadline
from recsys.errors import StageError
from recsys.features import current_plan
from recsys.features.batch import Ragged, UserFeatures
from recsys.features.plan import Plan
from recsys.features.view_record import ViewRecord
from recsys.feedback.exposure import Exposure
from recsys.inference.live import LiveBundle
from recsys.inference.local import LocalModel
from recsys.inference.model import Arrays, Model
from recsys.inference.threads import torch_threads
from recsys.models.serving import TorchServingModel
from recsys.pipeline import Answer, Pipeline
from recsys.ranking.operator_rules import NO_RULES, OperatorRules
from recsys.replay.kept import kept
from recsys.settings import Settings
from recsys.wire import RankRequest, RecommendRequest

NOW_MS = 1_767_225_600_000


class Users:
    """See ``UserReader``: everybody has some of everything, by their name."""

    def __init__(self, plan: Plan, num_categories: int) -> None:
        self._plan, self._num_categories = plan, num_categories

    async def read_users(
        self, user_ids: Sequence[str], *, vocabulary: Vocabulary, now_ms: int
    ) -> UserFeatures:
        generators = [np.random.default_rng(sum(map(ord, user_id))) for user_id in user_ids]
        lengths = [int(rng.integers(1, 90)) for rng in generators]
        offsets = np.cumsum([0, *lengths])
        rows = [rng.permutation(vocabulary.num_items)[:n] + 1
                for rng, n in zip(generators, lengths, strict=True)]  # fmt: skip
        plan = self._plan
        shape = (self._num_categories, len(plan.user_category_activity_names))
        tokens = [rng.integers(1, 2**40, 12) for rng in generators]
        return UserFeatures(
            as_of_ms=np.full(len(user_ids), now_ms, dtype=np.int64),
            known=np.ones(len(user_ids), dtype=bool),
            token_hashes=Ragged(np.concatenate(tokens), np.arange(len(user_ids) + 1) * 12),
            activity=np.stack(
                [rng.poisson(3.0, len(plan.user_activity_names)) for rng in generators]
            ).astype(np.float32),
            history_index=Ragged(np.concatenate(rows).astype(np.int32), offsets),
            history_count=Ragged(np.ones(offsets[-1], np.float32), offsets),
            history_last_ms=Ragged(np.full(offsets[-1], now_ms - 3_600_000), offsets),
            category_activity=np.stack([rng.poisson(2.0, shape) for rng in generators]).astype(
                np.float32
            ),
        )

    async def read_profile(
        self, user_id: str, *, vocabulary: Vocabulary, now_ms: int
    ) -> dict[str, ViewRecord]:
        return {}

    async def check_layout(self, namespace: str) -> None:
        return


class Down:
    """See ``Model``: a model server that is gone."""

    async def _fail(self, inputs: Arrays, deadline: Deadline) -> Arrays:
        raise StageError("recommend: gone", stage="recommend")

    recommend = rank = similar = _fail

    async def is_ready(self) -> bool:
        return False


@dataclass
class Past:
    """A system that has answered."""

    settings: Settings
    bundle: ServedBundle
    model: TorchServingModel
    plan: Plan
    operator: OperatorRules = NO_RULES
    down: bool = False
    answers: dict[str, Answer] = field(default_factory=dict)

    def answer(self, *requests: RecommendRequest) -> list[Exposure]:
        """Answer requests that come at the same moment: one batch."""
        live = self._live()
        pipeline = Pipeline(operator=lambda: self.operator, clock=lambda: NOW_MS)

        async def run() -> list[Answer]:
            return await asyncio.gather(
                *(
                    pipeline.recommend(live, request, request_id=f"r-{number}")
                    for number, request in enumerate(requests)
                )
            )

        with torch_threads(1):  # as in the model server
            answers = asyncio.run(run())
        return [
            self._exposure(f"r-{number}", request, answer)
            for number, (request, answer) in enumerate(zip(requests, answers, strict=True))
        ]

    def rank(self, request: RankRequest) -> Exposure:
        """Answer a request for the order of items, as the route does."""
        pipeline = Pipeline(clock=lambda: NOW_MS)
        with torch_threads(1):
            answer = asyncio.run(pipeline.rank(self._live(), request))
        exposure = self._exposure("ranked", request, answer)
        unknown = [one for one in request.item_ids if one not in exposure.item_ids]
        return msgspec.structs.replace(
            exposure,
            route="rank",
            item_ids=exposure.item_ids + unknown,
            scores=exposure.scores + [None] * len(unknown),
        )

    def _live(self) -> LiveBundle:
        model: Model = (
            Down() if self.down else LocalModel(self.model, num_candidates=NUM_CANDIDATES)
        )
        users = Users(self.plan, len(self.bundle.vocabulary.categories))
        return LiveBundle(self.bundle, model, users, clock=lambda: NOW_MS, namespace="test")

    def _exposure(
        self, request_id: str, request: RecommendRequest | RankRequest, answer: Answer
    ) -> Exposure:
        ranked, user = answer.ranked, answer.user
        ids = self.bundle.vocabulary.item_ids
        exposure = Exposure(
            request_id=request_id,
            user_id=request.user_id,
            route="recommendations",
            now_ms=answer.now_ms,
            bundle=self.bundle.bundle_id,
            rung=answer.rung,
            policy=answer.policy,
            propensities=list(answer.propensities),
            rules=answer.rules_version,
            degraded=answer.degraded,
            item_ids=[ids[row - 1] for row in ranked.item_index.tolist()],
            scores=ranked.score.tolist(),
            features=Exposure.tensors(user.arrays) if user is not None else {},
            item_features_age_ms=ranked.item_age_ms,
            replay=kept(answer, self.bundle),
            request=msgspec.Raw(msgspec.json.encode(request)),
        )
        # As it comes back from the log.
        return msgspec.json.decode(msgspec.json.encode(exposure), type=Exposure)


def make_past(settings: Settings) -> Past:
    """Give a system with an untrained bundle whose items have moving features."""
    plan = current_plan.ensure(settings.state_dir, project=settings.namespace)
    bundle_id = add_untrained_bundle(settings.bundle_dir, plan, seed=4)
    folder = BundleStore(settings.bundle_dir).path(bundle_id)
    model = load_serving_model(folder)
    assert isinstance(model, TorchServingModel)
    generator = torch.Generator().manual_seed(3)
    shape = (model.num_items + 1, model.dimensions.num_item_features)
    activity = torch.randint(0, 50, shape, generator=generator).float()
    model.items.set_activity(activity, NOW_MS - 700)
    return Past(settings=settings, bundle=load_served_bundle(folder), model=model, plan=plan)

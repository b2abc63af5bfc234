"""The list of an answer made again from the candidates that re-ranking chose from: NumPy only.

Rules hold by the answer's own moment, the user's tokens and the operator's file as it was; chance
falls by user and request.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from recsys.answers.last_step import RERANK_LATE, choose
from recsys.bundle.served import ServedBundle
from recsys.features.batch import Int32s
from recsys.feedback.exposure import GREEDY, Exposure, TensorRecord
from recsys.ranking.operator_rules import OperatorRules
from recsys.ranking.ranked import RankedItems
from recsys.ranking.request_rules import applying, bind
from recsys.ranking.reranking import Reranked
from recsys.replay.kept import (
    CANDIDATE_INDEX,
    CANDIDATE_OBJECTIVES,
    CANDIDATE_SCORE,
    OBJECTIVE_SCORE,
    USER_TOKENS,
)
from recsys.wire import RecommendRequest


def list_again(
    exposure: Exposure, bundle: ServedBundle, index: Int32s, operator: OperatorRules
) -> Reranked:
    """Choose the list of a recommendation again.

    Args:
        exposure: Of the route ``recommendations``.
        bundle: That answered.
        index: Rows of the shown items.
        operator: The rules of version ``exposure.rules``.
    """
    request = msgspec.json.decode(exposure.request, type=RecommendRequest)
    policy = None if exposure.policy == GREEDY else operator.exploration
    rules = applying(
        request, bundle, bind(operator, bundle), now_ms=exposure.now_ms,
        user_tokens=_tokens(exposure),
    )  # fmt: skip
    return choose(
        request, _candidates(exposure, index), bundle, exposure.rung, rules,
        policy=policy, is_late=RERANK_LATE in exposure.degraded,
        request_id=exposure.request_id, now_ms=exposure.now_ms,
    )  # fmt: skip


def _candidates(exposure: Exposure, index: Int32s) -> RankedItems:
    kept: Mapping[str, TensorRecord] = exposure.replay
    if CANDIDATE_INDEX in kept:
        index = kept[CANDIDATE_INDEX].array().astype(np.int32)
        score = kept[CANDIDATE_SCORE].array()
        objectives = kept[CANDIDATE_OBJECTIVES].array()
    else:
        score = np.array(exposure.scores, dtype=np.float32)
        none = np.zeros((len(index), 0), dtype=np.float32)
        objectives = kept[OBJECTIVE_SCORE].array() if OBJECTIVE_SCORE in kept else none
    return RankedItems(
        item_index=index,
        score=score,
        objective_score=objectives,
        source_score=np.zeros((len(index), 0), dtype=np.float32),
    )


def _tokens(exposure: Exposure) -> frozenset[int]:
    record = exposure.replay.get(USER_TOKENS) or exposure.features.get("user_tokens")
    if record is None:
        return frozenset()
    return frozenset(token for token in record.array().reshape(-1).tolist() if token != 0)

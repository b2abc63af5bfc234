"""The shapes that a plan, a vocabulary and a recipe give the models."""

from __future__ import annotations

from collections.abc import Sequence

from recsys.data.vocabulary import Vocabulary
from recsys.features.plan import Plan
from recsys.models.encode import UserEncoding
from recsys.models.signature import Dimensions


def encoding_of(
    plan: Plan,
    vocabulary: Vocabulary,
    *,
    history_length: int,
    num_tokens: int,
    request_keys: Sequence[str] = (),
) -> UserEncoding:
    """Give how users are encoded: all their activity in the plan's order."""
    return UserEncoding(
        history_length=history_length,
        num_tokens=num_tokens,
        user_activity=plan.user_activity_names,
        num_categories=len(vocabulary.categories),
        user_category_activity=plan.user_category_activity_names,
        request_keys=tuple(request_keys),
    )


def dimensions_of(
    encoding: UserEncoding,
    plan: Plan,
    *,
    objectives: Sequence[str],
    sources: Sequence[str],
    num_request_tokens: int,
) -> Dimensions:
    """Give the sizes of the models' inputs and outputs, for users encoded by ``encoding``."""
    return Dimensions(
        history_length=encoding.history_length,
        num_tokens=encoding.num_tokens,
        num_user_features=len(encoding.dense_names),
        num_categories=encoding.num_categories,
        num_category_features=len(encoding.user_category_activity),
        num_item_features=len(plan.item_activity_names),
        objectives=tuple(objectives),
        sources=tuple(sources),
        num_request_tokens=num_request_tokens,
    )

"""Reasons of an answer in words and numbers a person can follow: made only when asked for."""

from __future__ import annotations

import numpy as np

from recsys.bundle.served import ServedBundle
from recsys.features.view_record import ViewRecord
from recsys.inference.user_reading import UserContext
from recsys.pipeline import Answer
from recsys.ranking.reranking import rule_effects
from recsys.wire import HistoryItem, Reasons, UserProfile, UserSummary


def reasons(bundle: ServedBundle, answer: Answer) -> list[Reasons]:
    """Give the reasons of each item: sources, every objective's score, rules, and its chance."""
    ranked = answer.ranked
    sources, objectives = bundle.dimensions.sources, bundle.dimensions.objectives
    return [
        Reasons(
            sources={
                name: round(score, 6)
                for name, score in zip(sources, source_row, strict=False)
                if score != 0.0 and np.isfinite(score)
            },
            objectives={
                name: round(score, 6)
                for name, score in zip(objectives, objective_row, strict=False)
            },
            rules=rules,
            propensity=propensity,
        )
        for source_row, objective_row, rules, propensity in zip(
            ranked.source_score.tolist(),
            ranked.objective_score.tolist(),
            rule_effects(answer.applying, ranked, bundle, now_ms=answer.now_ms),
            answer.propensities or [1.0] * len(ranked),
            strict=True,
        )
    ]


def user_summary(bundle: ServedBundle, user: UserContext) -> UserSummary:
    """Give the feature values of one user by name; zeros are left out."""
    features, row = user.features, user.row
    encoding, vocabulary = bundle.encoding, bundle.vocabulary
    by_category: dict[str, dict[str, float]] = {}
    category_activity = features.category_activity[row]
    for column in np.flatnonzero(category_activity.any(axis=1)).tolist():
        by_category[vocabulary.categories[column]] = _nonzero(
            encoding.user_category_activity, category_activity[column].tolist()
        )
    history = zip(
        features.history_index.row(row).tolist(),
        features.history_count.row(row).tolist(),
        features.history_last_ms.row(row).tolist(),
        strict=True,
    )
    return UserSummary(
        as_of_ms=user.as_of_ms,
        activity=_nonzero(encoding.user_activity, features.activity[row].tolist()),
        categories=by_category,
        history=[
            HistoryItem(
                item_id=vocabulary.item_ids[index - 1],
                count=count,
                last_ms=last_ms,
                title=bundle.title[index],
            )
            for index, count, last_ms in reversed(list(history))
            if index != 0
        ],
    )


def user_profile(record: ViewRecord) -> UserProfile:
    """Give the attributes of one user."""
    tokens = record.values.get("tokens")
    return UserProfile(
        status=record.status.value,
        tokens=[str(token) for token in tokens] if isinstance(tokens, list) else [],
        event_time_ms=record.event_time_ms,
        age_ms=record.age_ms,
    )


def _nonzero(names: tuple[str, ...], values: list[float]) -> dict[str, float]:
    return {name: value for name, value in zip(names, values, strict=True) if value != 0.0}

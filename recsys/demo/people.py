"""Three people ask: a regular of the replayed history, an average one, and a stranger."""

from __future__ import annotations

import polars as pl
from rich.console import Console
from rich.table import Table

from recsys.client import Client
from recsys.events.event_log import scan
from recsys.events.topics import Topics
from recsys.settings import Settings
from recsys.wire import RecommendedItem, RecommendResponse, UserSummary

STRANGER = "a-first-time-visitor"
_NUM_SHOWN = 5


def users_by_activity(settings: Settings) -> list[str]:
    """Give every user with an interaction, the busiest first, ties by name."""
    topics = Topics(namespace=settings.namespace)
    counts = (
        scan(settings.event_log_dir, [topics.behaviour], kinds=["interaction"])
        .group_by("user_id")
        .agg(pl.len().alias("num_interactions"))
        .sort(["num_interactions", "user_id"], descending=[True, False])
        .collect()
    )
    return [str(user_id) for user_id in counts["user_id"]]


def show_recommendations(console: Console, client: Client, user_ids: list[str]) -> None:
    """Print what each user gets, and why."""
    for user_id in user_ids:
        answer = client.recommend(user_id, k=_NUM_SHOWN, explain=True)
        console.print(answer_table(answer))


def answer_table(answer: RecommendResponse) -> Table:
    """Give one answer as a table: items, the first objective's chance, each source's raw score."""
    who = (
        _who(answer.features)
        if answer.known and answer.features
        else "nothing is known: cold start"
    )
    table = Table(
        title=f"user [bold]{answer.user_id}[/bold]: {who}",
        caption=f"rung {answer.rung} · bundle {answer.bundle[:12]} · {answer.took_ms:.1f} ms "
        f"· request {answer.request_id[:12]}",
        title_justify="left",
        caption_justify="left",
    )
    sources = _sources(answer)
    table.add_column("item", no_wrap=True, max_width=32)
    table.add_column("chance", justify="right", no_wrap=True)
    for name in sources:
        table.add_column(name.replace("item_to_item", "i2i"), justify="right", no_wrap=True)
    for item in answer.items:
        scores = item.reasons.sources if item.reasons else {}
        table.add_row(
            item.title or item.item_id,
            _chance(item),
            *(f"{scores[name]:.2f}" if name in scores else "–" for name in sources),
        )
    return table


def _sources(answer: RecommendResponse) -> list[str]:
    """Give the candidate sources that scored any item, in the order they were first named."""
    named = (name for item in answer.items if item.reasons for name in item.reasons.sources)
    return list(dict.fromkeys(named))


def _who(features: UserSummary) -> str:
    parts = [f"{len(features.history)} items so far"]
    if features.history:
        latest = features.history[0]
        parts.append(f"latest {latest.title or latest.item_id}")
    return ", ".join(parts)


def _chance(item: RecommendedItem) -> str:
    if item.reasons is None or not item.reasons.objectives:
        return "–"
    name, probability = next(iter(item.reasons.objectives.items()))
    return f"{name} {probability:.1%}"

"""What a model is for and where it is weak, written for who decides whether to use it.

``model_card.json`` and ``MODEL_CARD.md`` lie in the bundle and say the same. All of it comes from
the manifest, so the same bundle has the same card.

Source: Mitchell et al. 2019, "Model Cards for Model Reporting", section 4. We leave out what a
program cannot know (ethical considerations, who to write to): add it where the card is published.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.bundle.manifest import Manifest

CARD_JSON, CARD_MARKDOWN = "model_card.json", "MODEL_CARD.md"
_BARS = ("recall", "ndcg")
_WEAK_SHARE = 0.8
"""A segment is weak when its value is below this share of the value over all users."""


def write_model_card(folder: Path, manifest: Manifest) -> None:
    """Write both forms into the bundle's folder; ``manifest`` has the metrics already."""
    card = model_card(manifest)
    (folder / CARD_JSON).write_text(json.dumps(card, indent=1, sort_keys=True))
    (folder / CARD_MARKDOWN).write_text(as_markdown(card))


def model_card(manifest: Manifest) -> dict[str, Any]:
    """Give the card as plain values."""
    lineage, metrics = manifest.lineage, manifest.metrics
    views = metrics.get("views", {})
    logged = lineage.logged_features
    return {
        "recipe": manifest.recipe,
        "intended_use": (
            "Choosing which items of this catalogue to show a user next, by what that user and "
            "others did before. Not for deciding about people (prices, credit, access), and not "
            "for items or users of another shop."
        ),
        "data": {
            "dataset": lineage.dataset,
            "events": lineage.num_events,
            "from": _day(lineage.data_from_ms),
            "until": _day(lineage.data_until_ms),
            "log_positions": lineage.log_positions,
            "content_hash": lineage.data_hash,
        }
        | ({} if logged is None else {"logged_features": logged.model_dump(mode="json")}),
        "objectives": [
            {
                "name": o.name,
                "interaction": o.interaction,
                "min_value": o.min_value,
                "weight_in_the_order": o.weight,
            }
            for o in manifest.objectives
        ],
        "evaluation": {
            "protocol": (
                "users of the time after the data's end who acted before it; all items are ranked; "
                "95 % bootstrap intervals over users"
            ),
            "views": {name: _view(rows) for name, rows in views.items()},
            "probabilities": metrics.get("probabilities", {}),
        },
        "weak_segments": weak_segments(metrics),
        "limits": _limits(manifest),
        "code": {"version": lineage.code_version, "libraries": lineage.libraries},
        "seed": lineage.seed,
        "device": lineage.device,
    }


def weak_segments(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the segments whose value lies well below that over all users, with the two values.

    Read from ``metrics["segments"]``: view, then attribute, then its value, then metrics as of a
    recommender. Only those whose interval does not reach the value over all are named.
    """
    found = []
    for view, attributes in metrics.get("segments", {}).items():
        overall = metrics.get("views", {}).get(view, {}).get("served", {})
        for attribute, values in attributes.items():
            for value, row in values.items():
                for name, bar in overall.items():
                    if name.split("@")[0] not in _BARS or name.endswith("_interval"):
                        continue
                    high = row.get(f"{name}_interval", [None, None])[1]
                    got = row.get(name)
                    if got is None or not isinstance(bar, int | float) or got >= _WEAK_SHARE * bar:
                        continue
                    if high is None or high < bar:
                        found.append(
                            {
                                "view": view, "segment": f"{attribute}={value}", "metric": name,
                                "value": got, "all_users": bar,
                            }
                        )  # fmt: skip
    return found


def as_markdown(card: dict[str, Any]) -> str:
    """Give the card as a page."""
    data = card["data"]
    lines = [
        f"# Model card: {card['recipe']} on {data['dataset']}",
        "",
        f"**Intended use.** {card['intended_use']}",
        "",
        f"**Data.** {data['events']} events from {data['from']} until {data['until']} (UTC), "
        f"content {data['content_hash'] or 'not hashed'}.",
        *_logged(data.get("logged_features")),
        "",
        "**Objectives.** " + "; ".join(_objective(o) for o in card["objectives"]) + ".",
        "",
        "## Quality",
        "",
        f"Protocol: {card['evaluation']['protocol']}.",
        "",
    ]
    for view, rows in card["evaluation"]["views"].items():
        lines += _table(view, rows)
    probabilities = {
        name: row
        for name, row in card["evaluation"]["probabilities"].items()
        if isinstance(row, dict)
    }
    for name, row in probabilities.items():
        said = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in sorted(row.items()))
        lines += [f"Probability of {name}: {said}.", ""]
    lines += ["## Where it is weak", ""]
    lines += [
        f"- {weak['segment']} ({weak['view']}): {weak['metric']} {weak['value']} against "
        f"{weak['all_users']} over all users"
        for weak in card["weak_segments"]
    ] or ["No segment that was looked at is clearly below the rest."]
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in card["limits"]), ""]
    lines += [
        f"Code {card['code']['version']}, seed {card['seed']}, fitted on {card['device']}; "
        + ", ".join(
            f"{name} {version}" for name, version in sorted(card["code"]["libraries"].items())
        )
        + ".",
        "",
    ]
    return "\n".join(lines)


def _logged(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    left_out = sum(found["left_out"].values())
    return [
        f"The ranker learned from features as they were logged at serving: {found['num_lists']} "
        f"shown lists; {left_out} others had none that could be used.",
    ]


def _view(rows: dict[str, Any]) -> dict[str, Any]:
    """Keep the headline figures of each recommender, with intervals."""
    return {
        who: {
            name: value
            for name, value in sorted(row.items())
            if name == "num_users" or (name.split("@")[0] in _BARS and "keeping" not in name)
        }
        for who, row in rows.items()
    }


def _limits(manifest: Manifest) -> list[str]:
    metrics = manifest.metrics
    limits = [
        "Tested on one stretch of time after the training data; seasons it does not cover are not "
        "tested.",
        "What users were never shown they could not take: figures from such data favour what was "
        "shown before.",
    ]
    if "note" in metrics:
        limits.insert(0, f"Not judged: {metrics['note']}.")
    if not metrics.get("segments"):
        limits.append("Segments (new users, new items, countries) were not looked at in this run.")
    if manifest.compressed_from is not None:
        limits.append(f"Numbers of bundle {manifest.compressed_from} in a smaller precision.")
    return limits


def _table(view: str, rows: dict[str, Any]) -> list[str]:
    names = sorted({n for row in rows.values() for n in row if "@" in n and "interval" not in n})
    lines = [
        f"### {view.replace('_', ' ')}",
        "",
        "| recommender | users | " + " | ".join(names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for who, row in rows.items():
        cells = [_cell(row.get(name), row.get(f"{name}_interval")) for name in names]
        lines.append(f"| {who} | {row.get('num_users', '')} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cell(value: Any, interval: Any) -> str:
    if not isinstance(value, int | float):
        return ""
    said = f"{value:.4f}"
    if isinstance(interval, list) and len(interval) == 2:
        said += f" ({interval[0]:.4f} to {interval[1]:.4f})"
    return said


def _objective(objective: dict[str, Any]) -> str:
    least = objective["min_value"]
    said = f"{objective['name']} ({objective['interaction']}"
    said += f" of at least {least:g})" if least is not None else ")"
    return said + f", weight {objective['weight_in_the_order']:g}"


def _day(moment_ms: int) -> str:
    return f"{datetime.fromtimestamp(moment_ms / 1000, UTC):%Y-%m-%d %H:%M}"

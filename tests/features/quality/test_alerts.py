"""The alert rules parse and ask for metrics that exist."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from prometheus_client import REGISTRY

from recsys import telemetry

RULES = Path(__file__).resolve().parents[3] / "deploy" / "alerts.yml"
SUFFIXES = ("_bucket", "_count", "_sum", "_total")


def _known() -> set[str]:
    assert telemetry.STREAM_LAG is not None
    return {family.name for family in REGISTRY.collect()}


def test_every_rule_is_whole_and_names_metrics_that_exist() -> None:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    assert len(group["rules"]) == len({rule["alert"] for rule in group["rules"]}) >= 4
    known = _known()
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert rule["expr"].count("(") == rule["expr"].count(")")
        metrics = re.findall(r"recsys_\w+", rule["expr"])
        assert metrics
        for metric in metrics:
            bare = next((metric.removesuffix(s) for s in SUFFIXES if metric.endswith(s)), metric)
            assert bare in known or metric in known, metric

"""The report as a document: what ``report.json`` holds, and all that the page is drawn from.

A figure that cannot be given is null, never NaN. Metrics are named as in ``report.USER_METRICS``,
without ``@k``: ``k`` stands beside them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

FORMAT_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Figure(_Part):
    """A mean over users, and where 95 % of its bootstrap resamples lie."""

    mean: float
    low: float
    high: float


class RecommenderRow(_Part):
    """One recommender in one view."""

    name: str
    num_users: int
    figures: dict[str, Figure]
    lists: dict[str, float | None]
    """Coverage, Gini, novelty, diversity and popularity of its lists."""
    keeping_unseen: dict[str, float]
    """Recall and NDCG where items nobody had before the test stay relevant."""


class ViewTable(_Part):
    """All recommenders in one view."""

    view: str
    rows: list[RecommenderRow]


class SegmentRow(_Part):
    """One group of a segment; no figures when it has too few users."""

    group: str
    num_users: int
    is_enough: bool
    figures: dict[str, Figure]
    difference: dict[str, Figure]
    """Of this bundle less the other, over the same users."""


class Gap(_Part):
    """Between the best and the worst group."""

    metric: str
    best: str
    worst: str
    difference: float
    ratio: float | None


class Segment(_Part):
    """One way of dividing users, or the items to be found."""

    view: str
    of: Literal["users", "items"]
    by: str
    about: str
    rows: list[SegmentRow]
    gap: Gap | None


class ExposureGroup(_Part):
    """What a group of items gets of the places, beside what it has of the items and of the test."""

    group: str
    num_items: int
    share_of_items: float | None
    share_of_relevant: float | None
    share_of_exposure: float | None
    per_item: float | None
    """Exposure over the group's share of the items; 1 is even."""
    per_relevant: float | None
    """Exposure over the group's share of what users took; 1 is even."""


class Exposure(_Part):
    """Exposure by one way of dividing the items."""

    view: str
    by: str
    about: str
    groups: list[ExposureGroup]
    gap_per_item: Gap | None
    gap_per_relevant: Gap | None


class Bin(_Part):
    """A point of a reliability curve."""

    predicted: float
    observed: float
    deviation: float
    num_rows: int


class ProbabilityTable(_Part):
    """One objective's probabilities on the test."""

    objective: str
    rows: str
    figures: dict[str, float | None]
    bins: list[Bin]


class Comparison(_Part):
    """This bundle and the other in one view, over the same users."""

    view: str
    num_users: int
    ours: dict[str, Figure]
    theirs: dict[str, Figure]
    difference: dict[str, Figure]
    our_lists: dict[str, float | None]
    their_lists: dict[str, float | None]


class Against(_Part):
    """The bundle this one is compared with."""

    bundle_id: str
    called: str
    """Why it was chosen: ``live``, or the id that was asked for."""
    recipe: str = ""
    created_ms: int | None = None
    data_until_ms: int | None = None
    refused: str = ""
    """Why there is no comparison; "" when there is one."""
    views: list[Comparison] = []


class CurvePoint(_Part):
    """The mean training loss of an epoch."""

    phase: str
    epoch: int
    loss: float


class FeatureRow(_Part):
    """One feature since the other bundle learned, beside an equally long time before."""

    view: str
    feature: str
    drift: float | None
    """Jensen-Shannon divergence, bits: 0 the same, 1 nothing in common."""
    null_share: float | None
    null_share_before: float | None


class FeaturesTable(_Part):
    """What the features were like that the bundle learned from."""

    moment_ms: int
    """Time of the newest event: the declared rules were judged then."""
    num_rules: int
    broken: list[str]
    against: str | None
    """The bundle since whose learning they may have moved."""
    note: str
    """Why nothing is compared; "" when it is."""
    num_before: int
    num_since: int
    """Interactions looked at."""
    rows: list[FeatureRow]
    """The largest drift first."""


class Report(_Part):
    """The whole report of one bundle on one test."""

    format_version: Literal[1] = 1
    bundle_id: str
    recipe: str
    dataset: str
    seed: int
    code_version: str
    created_ms: int
    data_from_ms: int
    test_from_ms: int
    test_until_ms: int
    k: int
    num_items: int
    num_test_users: int
    """Known users with something relevant in the test."""
    num_new_users: int
    num_users_left_out: int
    views: list[ViewTable]
    segments: list[Segment]
    exposure: list[Exposure]
    probabilities: list[ProbabilityTable]
    against: Against | None
    """None when no bundle was live."""
    curve: list[CurvePoint]
    features: FeaturesTable | None = None
    """None where nobody looked: outside of a pipeline."""
    notes: list[str]

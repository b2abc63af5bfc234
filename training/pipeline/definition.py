"""What a pipeline is to do, from one TOML file: run, schedule and manifests all come from it.

::

    recipe = "demo"
    dataset = "online_retail"
    [gate]
    floors = {"new_items_only.recall@20" = 0.10}
    [schedule]
    cron = "0 3 * * *"
    time_zone = "Europe/Berlin"
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recsys.errors import ConfigurationError
from training.recipe_file import check_recipe, read_recipe
from training.recipes import Recipe, find_recipe
from training.source import Wanted


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataBounds(_Part):
    """What the log must be like before a run spends time on it."""

    min_events: int = Field(100, ge=1)
    """Events that are no items."""
    min_users: int = Field(10, ge=1)
    min_items: int = Field(10, ge=1)
    max_age_hours: float | None = Field(None, gt=0)
    """Oldest that the newest event may be; None: any (data sets of the past)."""
    max_repeated_share: float = Field(0.05, ge=0, le=1)
    """Of events whose id has been there before: a sender that repeats itself counts twice."""
    verify_log: Literal["no", "quick", "deep"] = "quick"
    """``quick``: ranges, sizes and counts; ``deep``: every checksum and offset, reads all of it."""


class FeatureBounds(_Part):
    """What the features must be like: as declared, and as the live bundle learned them."""

    expectations: Literal["refuse", "report"] = "refuse"
    """What becomes of a run whose features break the rules that the Feast repository declares."""
    max_drift: float | None = Field(0.3, gt=0, le=1)
    """Jensen-Shannon divergence in bits between the values since the live bundle learned and those
    of an equally long time before: 0 the same, 1 nothing in common; None: only reported. Healthy
    data moved by .10 at the most, faults by .4 and more (docs/pipeline.md)."""
    max_null_rise: float | None = Field(0.25, ge=0, le=1)
    """How much larger the share of entities without a value may have become; None: only
    reported."""
    num_compared: int = Field(5000, ge=1)
    """Interactions of each time that are looked at, evenly spread."""
    min_compared: int = Field(200, ge=1)
    """With fewer in either there is no comparison: chance alone would look like drift."""


class GateBounds(_Part):
    """What a bundle must be like to go live."""

    floors: dict[str, float] = {}
    """``"view.metric@k"`` of the served list to the least it may be."""
    baselines: tuple[str, ...] = ("popular",)
    """Recommenders that the served list must not be below, in every view and both metrics."""
    metrics: tuple[str, ...] = ("recall", "ndcg")
    """Compared with baselines and the champion, at the data set's k."""
    champion_margin: float = Field(0.05, ge=0, le=1)
    """Non-inferiority: the lower end of the paired 95 % interval of candidate minus champion may be
    below 0 by at most this share of the champion's value. Small test sets have wide intervals: with
    a margin below their width nothing passes."""
    without_comparison: Literal["refuse", "pass"] = "refuse"
    """What becomes of a bundle that cannot fairly be compared with the live one: that one cannot be
    read, is of another data set, or has learned from part of this test."""
    max_calibration_error: float | None = Field(0.02, ge=0)
    """Expected calibration error of each objective's probability; None: not looked at."""


class ScheduleRules(_Part):
    """When runs begin."""

    cron: str | None = None
    """Five fields, as in crontab(5)."""
    time_zone: str = "UTC"
    """IANA name. Where its clock is set back, a fixed hour runs once; where it is set forward over
    one, it runs right after (Debian's cron, which cronsim follows)."""
    catch_up: Literal["skip", "once", "all"] = "once"
    """What becomes of runs that were due while nobody was there: none, one for all of them, or each
    in turn."""
    max_catch_up: int = Field(3, ge=1)
    """With ``all``: the latest so many; earlier ones are skipped."""


class KubernetesPlace(_Part):
    """Where and how large, for the manifests."""

    name: str = Field("recsys-pipeline", pattern=r"^[a-z]([a-z0-9-]{0,50}[a-z0-9])?$")
    namespace: str = "default"
    image: str = "recsys:latest"
    """Has this package and Ray of the version in the lock."""
    workers: int = Field(1, ge=0)
    """Ray workers beside the head."""
    cpus: int = Field(4, ge=1)
    """Of each pod."""
    memory: str = Field("8Gi", pattern=r"^[1-9][0-9]*(Mi|Gi)$")
    gpus: int = Field(0, ge=0)
    """Of each worker."""
    state_claim: str = "recsys-state"
    """PersistentVolumeClaim (ReadWriteMany) that holds ``RECSYS_STATE_DIR`` of all pods."""
    config_map: str = "recsys-settings"
    """ConfigMap whose entries become the environment: addresses of Redis, Triton, Kafka."""


class Definition(_Part):
    """One pipeline."""

    recipe: str = "demo"
    recipe_file: str | None = None
    """A recipe in TOML or JSON, instead of ``recipe``."""
    dataset: str = "online_retail"
    shift_ms: int = 0
    test_from: str | None = None
    from_files: bool = False
    """Read the data set's files instead of the event log."""
    features: Literal["joined", "logged"] | None = None
    """Of users in shown lists: joined from the event log, or as logged at serving; None: as the
    recipe says."""
    seed: int | None = None
    workers: int = Field(1, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    ray: bool = True
    """Fit on Ray; False: in the pipeline's own process."""
    lease: Literal["redis", "file"] = "redis"
    """``file``: a lock that only this machine sees, where there is no Redis."""
    publish: Literal["serve", "point", "no"] = "serve"
    """``serve``: load into Triton, try, then make live. ``point``: only move the live pointer.
    ``no``: end with the registered challenger."""
    attempts: int = Field(4, ge=1)
    """Tries of a step that fails for a passing reason."""
    keep_runs: int = Field(2, ge=1)
    """Runs whose outputs stay on disk."""
    data: DataBounds = DataBounds()
    feature_check: FeatureBounds = FeatureBounds()
    gate: GateBounds = GateBounds()
    schedule: ScheduleRules = ScheduleRules()
    kubernetes: KubernetesPlace = KubernetesPlace()

    @property
    def wanted(self) -> Wanted:
        """Give which data are learned from."""
        return Wanted(
            dataset=self.dataset, shift_ms=self.shift_ms, test_from=self.test_from,
            from_files=self.from_files,
        )  # fmt: skip

    def full_recipe(self) -> Recipe:
        """Give the recipe with the definition's seed and source of features.

        Raises:
            ConfigurationError: when there is none of that name, or its file is wrong.
        """
        file = self.recipe_file
        recipe = read_recipe(Path(file)) if file else find_recipe(self.recipe)
        if self.seed is not None:
            recipe = replace(recipe, seed=self.seed)
        if self.features is not None:
            recipe = replace(recipe, ranker=replace(recipe.ranker, features=self.features))
        check_recipe(recipe)
        return recipe


def read_definition(path: Path | None, changes: dict[str, Any]) -> Definition:
    """Read a definition and change some of its fields.

    Args:
        path: A TOML file; None: all defaults.
        changes: Fields that win over the file; None values do not.

    Raises:
        ConfigurationError: when the file cannot be read, or a field is unknown or wrong.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except OSError as error:
            raise ConfigurationError(
                f"{path}: wanted a pipeline's definition, found: {error.strerror or error}"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path}: wanted TOML, found: {error}") from error
    values |= {name: value for name, value in changes.items() if value is not None}
    try:
        return Definition.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}, found {problem['input']!r}"
            for problem in error.errors()
        )
        raise ConfigurationError(
            f"{path or 'the pipeline'}: {wrong}; training/pipeline/definition.py has the fields"
        ) from error

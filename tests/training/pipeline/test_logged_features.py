"""The pipeline holds on to the exposures it began with, as it does to the events."""

from __future__ import annotations

import io

import polars as pl
import pytest
from rich.console import Console

from recsys.bundle.manifest import read_manifest
from recsys.bundle.store import BundleStore
from recsys.clock import now_ms
from recsys.errors import InputError
from recsys.events.event_columns import SCHEMA
from recsys.events.log_compaction import compact
from recsys.events.topics import Topics
from recsys.feedback.logging_bundles import logging_bundles
from recsys.settings import Settings
from tests.bundle.test_bundle import small_plan
from tests.training.answered_world import PARTITIONS, TOPIC, answers, write
from tests.training.pipeline.small_state import append, small_definition, small_state
from training.debug_bundle import made_up_log, make_debug_bundle
from training.examples.identity import identity_of_log
from training.pipeline import cli
from training.pipeline.definition import Definition, read_definition
from training.pipeline.journal import Journal, read_journal
from training.pipeline.run import Ran, run_pipeline
from training.pipeline.state import journal_path, read_state
from training.source import Wanted, content_hash, present_positions, read_log


class Stopped(BaseException):
    """Ends a run as a signal would: it is to be taken up again."""


def run(settings: Settings, definition: Definition, **options: object) -> Ran:
    return run_pipeline(
        definition, settings, console=Console(file=io.StringIO()), now_ms=now_ms(), **options
    )


def steps(settings: Settings, ran: Ran, event: str) -> list[str]:
    return [e["step"] for e in read_journal(journal_path(settings, ran.run)) if e["event"] == event]


def shown_lists(log: pl.DataFrame) -> pl.DataFrame:
    """Give an impression of three items before each purchase, the bought one among them."""
    bought = log.filter(pl.col("kind") == "interaction").with_row_index("n")
    return bought.select(
        pl.lit("impression").alias("kind"),
        ("impression-" + pl.col("n").cast(pl.String)).alias("event_id"),
        (pl.col("event_time_ms") - 500).alias("event_time_ms"),
        "user_id",
        ("request-" + pl.col("n").cast(pl.String)).alias("request_id"),
        pl.concat_list(
            "item_id",
            "item-" + (pl.col("n") % 17 + 1).cast(pl.String),
            "item-" + (pl.col("n") % 13 + 20).cast(pl.String),
        )
        .list.unique(maintain_order=True)
        .alias("items"),
    )


def test_a_run_that_was_killed_goes_on_with_the_exposures_it_began_with(
    tmp_path, monkeypatch
) -> None:
    settings = small_state(tmp_path)
    log = made_up_log(num_users=40, num_items=40)
    shown = shown_lists(log)
    append(settings, shown, offset=len(log))
    # A bundle of another log answers: its rows are others, and more.
    folder = make_debug_bundle(tmp_path / "made", plan=small_plan())
    bundle_id = BundleStore(settings.bundle_dir).add(folder)
    bundle = logging_bundles(settings.bundle_dir, [bundle_id])[bundle_id]
    whole = pl.concat([pl.DataFrame(schema=SCHEMA), log, shown], how="diagonal_relaxed")
    every = answers(whole, small_plan(), bundle)
    definition = small_definition(features="logged", publish="no")
    with pytest.raises(InputError, match="no exposure"):
        run(settings, definition)
    num = len(every) // (2 * PARTITIONS) * PARTITIONS
    early, late = every[::2][:num], every[1::2][:num]
    write(settings.event_log_dir, early)
    pinned = {f"{TOPIC}:{p}": num // PARTITIONS for p in range(PARTITIONS)}

    tell = Journal.tell

    def stops(self: Journal, event: str, **fields: object) -> None:
        tell(self, event, **fields)
        if (event, fields.get("step")) == ("step_started", "examples"):
            raise Stopped

    monkeypatch.setattr(Journal, "tell", stops)
    with pytest.raises(Stopped):
        run(settings, definition)
    monkeypatch.setattr(Journal, "tell", tell)
    before = read_state(settings)
    assert before is not None and before.outcome == "running"
    assert {k: v for k, v in before.positions.items() if k in pinned} == pinned
    write(settings.event_log_dir, late, offset=num // PARTITIONS)
    ran = run(settings, definition)
    assert ran.run == before.run
    lineage = read_manifest(ran.outputs["evaluate"].path / "bundle").lineage
    found = lineage.logged_features
    assert found is not None and found.left_out["no exposure"] > 10
    assert all(lineage.log_positions[name] <= end for name, end in pinned.items())
    assert any("lists learn from" in e.get("text", "")
               for e in read_journal(journal_path(settings, ran.run)))  # fmt: skip
    # The next run has them all; the one after it makes nothing.
    more = run(settings, definition)
    assert steps(settings, more, "step_started")[0] == "examples"
    all_found = read_manifest(more.outputs["evaluate"].path / "bundle").lineage.logged_features
    assert all_found is not None and all_found.num_lists > found.num_lists
    # Carried over from the rows of the other bundle they are what the join gives here.
    assert set(all_found.equal_share.values()) == {1.0}
    again = run(settings, definition)
    assert set(steps(settings, again, "step_started")) <= {"gate", "register"}


def test_the_same_events_have_one_hash_however_they_were_read(tmp_path) -> None:
    """Read with a filter, without, and from other files: the columns lie elsewhere in memory."""
    settings = small_state(tmp_path)
    append(settings, shown_lists(made_up_log(num_users=40, num_items=40)), offset=2000)
    wanted = Wanted(dataset="simulated")
    read = [read_log(settings, wanted, positions=p) for p in (None, present_positions(settings))]
    compact(settings.event_log_dir, Topics(namespace=settings.namespace).behaviour)
    read.append(read_log(settings, wanted))
    assert all(log.equals(read[0]) for log in read)
    assert len({content_hash(log) for log in read}) == 1
    assert len({identity_of_log(log) for log in read}) == 1


def test_features_are_a_field_of_the_definition_and_of_the_recipe(tmp_path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('base = "debug"\n[ranker]\nfeatures = "logged"\n')
    by_recipe = read_definition(None, {"recipe_file": str(recipe)}).full_recipe()
    by_field = read_definition(None, {"recipe": "debug", "features": "logged"}).full_recipe()
    assert by_recipe.ranker == by_field.ranker and by_field.ranker.features == "logged"
    turned = read_definition(None, {"recipe_file": str(recipe), "features": "joined"})
    assert turned.full_recipe().ranker.features == "joined"
    flags = cli._arguments(["run", "--recipe", "debug", "--features", "logged"])
    assert cli.definition_of(flags).features == "logged"
    # What a schedule starts has the flags that it was given.
    assert cli._run_arguments(flags) == ["--recipe", "debug", "--features", "logged"]

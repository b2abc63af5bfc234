"""The tables of README.md and docs/numbers.md are those of rows.toml and the committed results."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.numbers.source import ROWS, read_figures, read_source
from benchmarks.numbers.table import (
    BEGIN,
    END,
    PAGE,
    README,
    headlines,
    pages,
    short_of_aims,
    tables,
)
from recsys.errors import InputError

_HEAD = """
[groups]
aims = "Aims"
[[machines]]
name = "laptop"
says = "two cores"
"""
_TYPED = 'commit = "abc1234"\ndate = 2026-01-02\nmachine = "laptop"\n'


def _rows(folder: Path, *rows: str) -> Path:
    path = folder / "rows.toml"
    given = "".join(f'[[rows]]\ngroup = "aims"\nwhat = "reads"\n{row}' for row in rows)
    path.write_text(_HEAD + given)
    return path


def _result(folder: Path, day: str, **result: Any) -> None:
    (folder / day).mkdir(parents=True)
    document = {
        "commit": f"of {day}", "date": day, "machine": {"name": "a chip"}, "result": result
    }  # fmt: skip
    (folder / day / "features.reads.json").write_text(json.dumps(document))


def test_pages_are_in_step_with_rows_and_results() -> None:
    for page, made in pages().items():
        assert page.read_text() == made, "run `python -m benchmarks table --write`"


def test_a_changed_row_would_be_noticed(tmp_path: Path) -> None:
    changed = tmp_path / "rows.toml"
    changed.write_text(ROWS.read_text().replace('measured = "', 'measured = "not ', 1))
    assert tables(read_figures(changed)) != tables(read_figures())


def test_each_bar_that_is_not_met_has_a_cause_that_leads_somewhere() -> None:
    for figure in read_figures():
        if figure.met in ("no", "at times"):
            links = re.findall(r"\]\(([^)#]+)#([^)]+)\)", figure.row.cause)
            assert links, figure.row.what
            for page, anchor in links:
                heads = re.findall(r"^#+ (.+)$", (PAGE.parent / page).read_text(), re.M)
                anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads}
                assert anchor in anchors, f"{figure.row.what}: {page}#{anchor}"


def test_commits_are_of_this_history_in_form_and_machines_are_said() -> None:
    source = read_source()
    for figure in read_figures():
        assert figure.row.not_run or re.fullmatch(r"[0-9a-f]{7,12}", figure.commit), figure.row.what
    assert {row.machine for row in source.rows if row.machine} <= {m.name for m in source.machines}


@pytest.mark.parametrize(
    ("found", "met"),
    [
        ("value = 31.0", "yes"),
        ("value = 29.0", "no"),
        ("value = 31.0\nlow = 30.0\nhigh = 35.0", "yes"),
        ("value = 31.0\nlow = 29.9\nhigh = 35.0", "at times"),
        ("low = 12.0\nhigh = 13.0", "no"),
        ('not_run = "no GPU"', "not run"),
    ],
)
def test_a_bar_is_met_when_the_whole_interval_keeps_it(
    tmp_path: Path, found: str, met: str
) -> None:
    row = f'wanted = ">= 30"\ncause = "why"\n{found}\n' + ("" if "not_run" in found else _TYPED)
    (figure,) = read_figures(_rows(tmp_path, row))
    assert figure.met == met


def test_figures_come_from_the_newest_result(tmp_path: Path) -> None:
    _result(tmp_path, "2026-01-02", times={"ours / raw": {"ratio": 9.0, "low": 8.0, "high": 10.0}})
    _result(tmp_path, "2026-02-01", times={"ours / raw": {"ratio": 1.2, "low": 1.1, "high": 1.3}})
    row = 'result = "features.reads"\nmeasured = "{times[ours / raw][ratio]:.2f}"\nunit = "times"\n'
    row += 'wanted = "<= 1.5"\nat = ["times", "ours / raw"]\n'
    (figure,) = read_figures(_rows(tmp_path, row), tmp_path)
    assert (figure.measured, figure.commit, figure.machine) == ("1.20", "of 2026-02-01", "a chip")
    assert (figure.value, figure.low, figure.high, figure.met) == (1.2, 1.1, 1.3, "yes")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('measured = "3"\n', "wanted a result, or commit, date and machine"),
        ('result = "features.reads"\n', "wanted a result of features.reads"),
        (f'wanted = "about 3"\nvalue = 3.0\n{_TYPED}', "wanted a bar like"),
        (f'wanted = ">= 3"\n{_TYPED}', "wanted a value, or low and high"),
        (f'wanted = ">= 3"\nvalue = 2.0\n{_TYPED}', "wanted the cause"),
        (f'colour = "red"\n{_TYPED}', "its head says how a row is written"),
    ],
)
def test_a_wrong_row_is_named_with_what_was_wanted(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        read_figures(_rows(tmp_path, row), tmp_path)


def test_a_figure_that_a_result_lacks_is_named(tmp_path: Path) -> None:
    _result(tmp_path, "2026-01-02", rate=3)
    with pytest.raises(InputError, match='row "reads": wanted figures of the result'):
        read_figures(_rows(tmp_path, 'result = "features.reads"\nmeasured = "{speed}"\n'), tmp_path)


def test_what_is_short_of_its_aim_is_listed_with_the_row_it_continues(tmp_path: Path) -> None:
    path = _rows(tmp_path, f'wanted = ">= 3"\nvalue = 2.0\ncause = "slow disk"\n{_TYPED}')
    more = f'[[rows]]\ngroup = "aims"\nwhat = "… twice"\nwanted = "< 9"\nvalue = 8.0\n{_TYPED}'
    last = more.replace("twice", "thrice").replace("value = 8.0", 'value = 9.0\ncause = "why"')
    path.write_text(path.read_text() + more + last)
    said = short_of_aims(read_figures(path))
    assert "**reads**\n\nWanted ≥ 3, found 2.\nslow disk" in said
    assert "**reads … thrice**" in said and "twice" not in said


def test_the_page_has_all_rows_and_the_readme_those_with_a_headline() -> None:
    rows = tomllib.loads(ROWS.read_text())["rows"]

    def lines(page: Path) -> list[str]:
        made = page.read_text().partition(BEGIN)[2].partition(END)[0]
        return [line for line in made.splitlines() if line.startswith("| ") and "|---" not in line]

    headlines = [row["headline"] for row in rows if "headline" in row]
    assert len(lines(PAGE)) == len(rows) + len(read_source().groups)
    assert len(lines(README)) == len(headlines) + 2
    assert all(any(line.startswith(f"| {told} |") for line in lines(README)) for told in headlines)


def test_the_readme_counts_all_bars_however_few_it_tells(tmp_path: Path) -> None:
    met = f'headline = "reading"\nwanted = ">= 3"\nvalue = 4.0\n{_TYPED}'
    missed = f'wanted = ">= 3"\nvalue = 2.0\ncause = "slow disk"\n{_TYPED}'
    unbarred = f'headline = "size"\nmeasured = "3 kB"\n{_TYPED}'
    said = headlines(read_figures(_rows(tmp_path, met, missed, unbarred)))
    assert "| reading | ≥ 3 | 4 | yes |" in said and "| size | 3 kB |" in said
    assert "All 2 bars that were set beforehand: 1 met, 0 met at times, 1 missed" in said
    assert "slow" not in said

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsys.datasets import cli
from recsys.datasets.check import CheckReport, check_dataset
from recsys.datasets.mapping import DatasetMapping
from recsys.settings import Settings
from tests.datasets.conftest import FIXTURES, real, small

T0 = 1_700_000_000_000
NOW = T0 + 1_000_000
MAPPING = """
[tables.items]
file = "items.csv"
[tables.users]
file = "users.csv"
[tables.shown]
file = "shown.csv"
[tables.log]
file = "log.csv"
[items]
table = "items"
id = "i"
price = "price"
[users]
table = "users"
id = "u"
[[impressions]]
table = "shown"
user = "u"
item = "i"
time = "t"
request_id = "r"
[[interactions]]
table = "log"
user = "u"
item = "i"
time = "t"
request_id = "r"
type = "click"
"""


def report_of(folder: Path, **files: str) -> CheckReport:
    clean = {
        "items": "i,price\nx,1\ny,2\nz,\n",
        "users": "u\na\nb\n",
        "shown": f"u,i,t,r\na,x,{T0},1\na,y,{T0},1\nb,y,{T0},2\n",
        "log": f"u,i,t,r\na,x,{T0 + 5},1\nb,y,{T0 + 5},2\n",
    }
    for name, text in {**clean, **files}.items():
        (folder / f"{name}.csv").write_text(text)
    return check_dataset(small(folder, MAPPING), folder, now_ms=NOW)


def failures(report: CheckReport) -> dict[str, int]:
    return {f.check: f.count for f in report.findings if not f.passed}


def test_clean_data_passes_and_is_counted(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    assert report.passed
    assert report.counts == {"item": 3, "user": 2, "impression": 2, "interaction": 2, "feedback": 0}
    assert report.types == {"interaction": {"click": 2}, "feedback": {}}
    assert (report.num_active_users, report.num_active_items) == (2, 2)
    assert (report.first_ms, report.last_ms) == (T0, T0 + 5)


@pytest.mark.parametrize(
    ("table", "text", "failed", "first"),
    [
        ("items", "i,price\nx,1\ny,2\nx,3\n", "duplicate_items", "items.csv row 3, items: again"),
        ("items", "i,price\nx,1\ny,-2\n", "bad_rows", "items.csv row 2, items: price is not"),
        ("items", "i,price\nx,1\n,2\ny,3\n", "nulls", "items.csv row 2, items: item id is missing"),
        ("users", "u\na\nb\na\n", "duplicate_users", "users.csv row 3, users: again"),
        ("users", "u\na\n", "unknown_users", "shown.csv row 3, impressions[0]: user b"),
        (
            "shown", f"u,i,t,r\na,x,{T0},1\na,x,{T0},1\nb,y,{T0},2\n",
            "repeated_items_in_list", "shown.csv row 1, impressions[0]: request 1",
        ),
        (
            "shown", f"u,i,t,r\na,x,{T0},1\nb,y,{T0},1\nb,y,{T0},2\n",
            "duplicate_impressions", "shown.csv row 2, impressions[0]: again request_id 1",
        ),
        (
            "log", f"u,i,t,r\na,x,{T0 + 5},1\na,x,{T0 + 5},1\n",
            "duplicate_interactions", "log.csv row 2, interactions[0]: again user_id a",
        ),
        (
            "log", f"u,i,t,r\na,x,{T0},9\n",
            "unknown_requests", "log.csv row 1, interactions[0]: request 9",
        ),
        (
            "log", f"u,i,t,r\na,z,{T0},1\n",
            "interaction_outside_list", "log.csv row 1, interactions[0]: item z",
        ),
        (
            "log", f"u,i,t,r\na,x,{T0 - 1},1\n",
            "interaction_before_list", "log.csv row 1, interactions[0]: time",
        ),
        (
            "log", f"u,i,t,r\na,x,{NOW + 10**6},1\n",
            "future_times", "log.csv row 1, interactions[0]: time",
        ),
        (
            "log", f"u,i,t,r\na,q,{T0},\n",
            "unknown_items", "log.csv row 1, interactions[0]: item q",
        ),
    ],
)  # fmt: skip
def test_each_blemish_is_found_with_its_row(
    tmp_path: Path, table: str, text: str, failed: str, first: str
) -> None:
    report = report_of(tmp_path, **{table: text})
    assert failures(report).get(failed), failures(report)
    finding = next(f for f in report.findings if f.check == failed)
    assert finding.first[0].startswith(first)


def test_a_boundary_outside_the_data_fails(shop: DatasetMapping, no_data: Path) -> None:
    assert shop.split is not None
    late = shop.split.model_copy(update={"test_from": shop.split.test_from.replace(year=2030)})
    moved = shop.model_copy(update={"split": late})
    assert failures(check_dataset(moved, no_data, now_ms=2 * T0)) == {"split_outside_data": 1}


def test_allowances_let_known_blemishes_pass(shop: DatasetMapping, no_data: Path) -> None:
    report = check_dataset(shop, no_data, now_ms=2 * T0)
    assert report.passed
    finding = next(f for f in report.findings if f.check == "unknown_items")
    assert (finding.count, finding.allowed) == (1, 1)
    assert finding.reason.startswith("007 was sold once")


def test_check_command_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(data_dir=tmp_path)
    mapping = FIXTURES / "shop" / "mapping.toml"
    assert cli.main(["check", str(mapping)], settings=settings) == 0
    assert "PASS" in capsys.readouterr().out
    assert cli.main(["check", str(mapping), "--json"], settings=settings) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] and document["counts"]["interaction"] == 8
    assert cli.main(["check", "online_retail"], settings=settings) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "run `recsys data download online_retail`" in err
    assert cli.main(["check"], settings=settings) == 2
    assert "no data set under" in capsys.readouterr().err
    strict = tmp_path / "strict.toml"
    text = mapping.read_text().replace('folder = "."', f'folder = "{mapping.parent}"')
    strict.write_text(text.replace("at_most = 1", "at_most = 0"))
    assert cli.main(["check", str(strict)], settings=settings) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out and "orders.csv row 4, interactions[1]: item 007" in out


def test_ls_names_all_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ls", "--json"], settings=Settings(data_dir=tmp_path)) == 0
    listed = {entry["name"]: entry["present"] for entry in json.loads(capsys.readouterr().out)}
    assert listed == {"kuairand_pure": False, "online_retail": False, "ranklens": False}
    assert cli.main(["ls"], settings=Settings(data_dir=tmp_path)) == 0
    assert str(tmp_path / "ranklens") in capsys.readouterr().out


@pytest.mark.parametrize("name", ["online_retail", "kuairand_pure", "ranklens"])
def test_real_data_passes(name: str) -> None:
    mapping, data_dir = real(name)
    report = check_dataset(mapping, data_dir, now_ms=2 * T0)
    assert report.passed, failures(report)

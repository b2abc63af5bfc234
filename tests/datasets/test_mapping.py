from __future__ import annotations

from pathlib import Path

import pytest

from recsys.datasets.load import load_mapping, parse_mapping, worked_names
from recsys.datasets.mapping import DatasetMapping
from recsys.errors import MappingError

MINIMAL = """
name = "small"
[tables.log]
file = "log.csv"
[[interactions]]
table = "log"
user = "u"
item = "i"
time = "t"
type = "click"
"""


def test_worked_mappings_are_valid_and_named_after_their_file() -> None:
    assert worked_names() == ["kuairand_pure", "online_retail", "ranklens"]
    for name in worked_names():
        mapping = load_mapping(name)
        assert mapping.name == name
        assert mapping.objectives and mapping.split and mapping.download


def test_online_retail_says_what_the_rest_of_the_system_reads() -> None:
    mapping = load_mapping("online_retail")
    assert [(o.name, o.interaction, o.min_value, o.weight) for o in mapping.objectives] == [
        ("purchase", "purchase", None, 1.0),
        ("bulk_purchase", "purchase", 12, 0.0),
    ]
    assert mapping.split is not None
    assert mapping.split.test_from_ms == 1_320_796_800_000  # 2011-11-09 UTC
    assert mapping.evaluation.views == ["new_items_only", "repeats_allowed"]
    assert mapping.relevant_type == "purchase"


def test_shorthands_mean_their_long_forms() -> None:
    short = parse_mapping(MINIMAL)
    long = parse_mapping(
        MINIMAL.replace('file = "log.csv"', 'file = ["log.csv"]').replace(
            'time = "t"', 'time = { column = "t" }'
        )
    )
    assert short == long


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        (('type = "click"', 'type = "Click!"'), "interactions[0].type", "Click!"),
        (('user = "u"', 'user = "u"\nuzer = "v"'), "interactions[0].uzer", "unknown field"),
        (('user = "u"\n', ""), "interactions[0].user", "missing"),
        (('table = "log"', 'table = "lag"'), "", "'lag' is not among [tables] (log)"),
        (
            ('type = "click"', 'type = "click"\nwhere = "a = 1"'),
            "interactions[0].where[0]",
            "cannot be read",
        ),
        (
            ('time = "t"', 'time = { column = "t", zone = "Mars/Olympus" }'),
            "interactions[0].time.zone",
            "unknown time zone",
        ),
        (
            (
                'type = "click"',
                'type = "click"\n[[objectives]]\nname = "a"\ninteraction = "buy"\nweight = 1',
            ),
            "",
            "'buy' is no type of this mapping (found click)",
        ),
        (
            (
                'type = "click"',
                'type = "click"\n[split]\n'
                "test_from = 2024-01-01T00:00:00Z\nvalidation_from = 2024-01-02T00:00:00Z",
            ),
            "split",
            "must be before",
        ),
        (('name = "small"', 'name = "small'), "", "is no TOML"),
    ],
)  # fmt: skip
def test_an_error_names_the_toml_path(change: tuple[str, str], field: str, message: str) -> None:
    with pytest.raises(MappingError) as caught:
        parse_mapping(MINIMAL.replace(*change))
    assert caught.value.field == field
    assert message in str(caught.value)


def test_all_errors_are_told_at_once() -> None:
    broken = MINIMAL.replace('user = "u"\n', "").replace('item = "i"\n', "")
    with pytest.raises(MappingError) as caught:
        parse_mapping(broken)
    assert "interactions[0].user" in str(caught.value)
    assert "interactions[0].item" in str(caught.value)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(MappingError, match="did you mean 'online_retail'"):
        load_mapping("online_retial")


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="cannot be read: No such file"):
        load_mapping(tmp_path / "mine.toml")


def test_folder_is_under_the_data_dir_absolute_or_beside_the_mapping(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(MINIMAL.replace("[tables", 'folder = "./x"\n[tables', 1))
    assert load_mapping(tmp_path / "m.toml").data_folder(Path("/d")) == tmp_path / "x"

    def folder(value: str) -> Path:
        text = MINIMAL.replace("[tables", f'folder = "{value}"\n[tables', 1)
        mapping: DatasetMapping = parse_mapping(text)
        return mapping.data_folder(Path("/d"))

    assert folder("") == Path("/d/small")
    assert folder("other") == Path("/d/other")
    assert folder("/abs") == Path("/abs")

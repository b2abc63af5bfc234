"""Writes as columns are the writes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.features.hashes import MemoryHashes, Write
from recsys.features.packed_fields import cut_widths, pack
from recsys.features.script_calls import calls_of
from recsys.features.write_columns import WriteColumns

FIELDS = st.dictionaries(st.binary(max_size=4), st.binary(max_size=5), min_size=1, max_size=5)
WRITES = st.lists(st.tuples(st.binary(max_size=3), st.integers(0, 9), FIELDS), max_size=8)


def columns_of(told: list[tuple[bytes, int, dict[bytes, bytes]]]) -> WriteColumns:
    packed = [pack(fields) for _, _, fields in told]
    return WriteColumns(
        [key for key, _, _ in told],
        [version for _, version, _ in told],
        [widths for widths, _ in packed],
        [data for _, data in packed],
    )


@given(WRITES, st.sets(st.binary(max_size=3)), st.integers(0, 8))
def test_columns_look_like_their_writes(
    told: list[tuple[bytes, int, dict[bytes, bytes]]], some: set[bytes], cut: int
) -> None:
    wanted = [Write(key, fields, version) for key, version, fields in told]
    columns = columns_of(told)
    assert list(columns) == wanted == [columns[n] for n in range(len(columns))]
    assert list(columns[:cut]) == wanted[:cut]
    assert list(columns.without(some)) == [write for write in wanted if write.key not in some]
    both = columns_of(told)
    both.extend(columns[cut:])
    assert list(both) == wanted + wanted[cut:]


@given(WRITES)
def test_scripts_are_told_the_same_of_columns(
    told: list[tuple[bytes, int, dict[bytes, bytes]]],
) -> None:
    columns = columns_of(told)
    assert calls_of(columns) == calls_of(list(columns))


def test_more_fields_than_a_call_of_lua_takes_are_cut_into_groups() -> None:
    fields = {b"%d" % n: b"" if n % 7 else b"value" for n in range(3_000)}
    (write,) = columns_of([(b"key", 4, fields)])
    ((keys, numbers, data),) = calls_of(columns_of([(b"key", 4, fields)]))
    (version, num_groups, *places), widths = msgspec.msgpack.decode(numbers)
    assert (keys, version, num_groups) == ([b"key"], 4, len(places))
    assert num_groups > 1
    assert "".join(widths[place - 1] for place in places).encode() == pack(fields)[0]
    assert data == pack(fields)[1]
    store = MemoryHashes()
    store.write([write._replace(version=0)])
    assert store.content[b"key"].items() > fields.items()


@pytest.mark.parametrize("most_bytes", [4, 5, 7, 100])
def test_a_cut_is_between_fields(most_bytes: int) -> None:
    widths = b"c1c2" + b"ss" + b"sc3" + b"c4s"
    groups = cut_widths(widths, most_bytes)
    assert b"".join(groups) == widths
    assert all(0 < len(group) <= most_bytes for group in groups)
    assert all(group.count(b"c") + group.count(b"s") in (2, 4, 6, 8) for group in groups)
    assert cut_widths(b"", most_bytes) == []

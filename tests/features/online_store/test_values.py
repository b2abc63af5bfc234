"""Values, times and keys: our bytes are those Feast's own code makes, in both directions."""

from __future__ import annotations

import math
import struct
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import FeatureError, InputError
from recsys.features.entity_keys import EntityKeyColumns
from recsys.features.time_layout import decode_timestamp_us, encode_timestamp_us
from recsys.features.value_columns import (
    Mask,
    RaggedColumn,
    decode_column,
    decode_float_rows,
    decode_timestamps,
    decode_vectors,
)
from recsys.features.value_encoding import Framed, as_list, frame, frame_column, frame_times
from recsys.features.value_layout import decode_value
from recsys.features.view import KeyType, ValueType
from tests.features.online_store.views import ALL_TYPES, feature

pytestmark = pytest.mark.filterwarnings("ignore")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types import Value_pb2 as protos
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from google.protobuf.timestamp_pb2 import Timestamp

float32s = st.floats(width=32, allow_nan=False)
int64s = st.integers(-(2**63), 2**63 - 1)
int32s = st.integers(-(2**31), 2**31 - 1)
texts = st.text(max_size=200).filter(lambda text: "\ud800" not in text)
SCALARS: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "float32": ("float", float32s),
    "float64": ("double", st.floats(allow_nan=False)),
    "int32": ("int32", int32s),
    "int64": ("int64", int64s),
    "bool": ("bool", st.booleans()),
    "string": ("string", texts),
    "bytes": ("bytes", st.binary(max_size=200)),
    "timestamp": ("unix_timestamp", int64s),
}
LISTS = {
    "float": protos.FloatList, "double": protos.DoubleList, "int32": protos.Int32List,
    "int64": protos.Int64List, "bool": protos.BoolList, "string": protos.StringList,
    "bytes": protos.BytesList, "unix_timestamp": protos.Int64List,
}  # fmt: skip


def proto_bytes(kind: ValueType, value: Any) -> bytes:
    if value is None:
        return protos.Value().SerializeToString()
    name = SCALARS[kind.removesuffix("_list")][0]
    if kind.endswith("_list"):
        value = LISTS[name](val=value)
        return protos.Value(**{f"{name}_list_val": value}).SerializeToString()
    return protos.Value(**{f"{name}_val": value}).SerializeToString()


def values_of(kind: ValueType) -> st.SearchStrategy[Any]:
    scalar = SCALARS[kind.removesuffix("_list")][1]
    return st.lists(scalar, max_size=6) if kind.endswith("_list") else scalar


def rows_of(framed: Framed) -> list[bytes]:
    return framed.rows if isinstance(framed.rows, list) else as_list(framed.rows)


def same(left: Any, right: Any) -> bool:
    return left == right or (isinstance(left, float) and math.isnan(left) and math.isnan(right))


@pytest.mark.parametrize("kind", ALL_TYPES)
@given(data=st.data())
def test_columns_are_written_and_read_as_feast_does(kind: ValueType, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | values_of(kind), max_size=8))
    theirs = [proto_bytes(kind, value) for value in values]
    assert rows_of(frame_column(feature("v", "f", kind), values)) == frame(theirs)

    stored = [*theirs, None]
    column, mask = decode_column(stored, kind)
    wanted = [Mask.NULL if value is None else Mask.PRESENT for value in values]
    assert mask.tolist() == [*wanted, Mask.MISSING]
    for position, value in enumerate(values):
        if isinstance(column, RaggedColumn):
            assert column.row(position).tolist() == (value or [])
        elif value is not None:
            assert column[position] == value
        assert decode_value(stored[position], kind) == value


@given(st.lists(st.lists(st.none() | st.floats(width=32), min_size=3, max_size=3), max_size=6))
def test_rows_of_floats(rows: list[list[float | None]]) -> None:
    stored = [[proto_bytes("float32", v) for v in row] for row in rows]
    values, masks = decode_float_rows([[*row, b"more"] for row in stored], 3)
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            assert masks[i, j] == (Mask.NULL if value is None else Mask.PRESENT)
            assert math.isnan(values[i, j]) if value is None else same(float(values[i, j]), value)
    gone, masks = decode_float_rows([[None, b"", stored[0][2]]] if rows else [], 3)
    if rows:
        assert masks[0, :2].tolist() == [Mask.MISSING, Mask.NULL]
        assert np.isnan(gone[0, :2]).all()


def test_a_vector_is_a_row_of_its_columns() -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    declared = feature("v", "vec", "float32_list", ("a", "b", "c", "d"))
    theirs = [proto_bytes("float32_list", row) for row in matrix.tolist()]
    for given_as in (matrix, matrix.tolist(), pa.FixedSizeListArray.from_arrays(matrix.ravel(), 4)):
        assert rows_of(frame_column(declared, given_as)) == frame(theirs)
    values, masks = decode_vectors([theirs[0], None, b"", theirs[2]], 4)
    assert masks.tolist() == [Mask.PRESENT, Mask.MISSING, Mask.NULL, Mask.PRESENT]
    np.testing.assert_array_equal(values[[0, 3]], matrix[[0, 2]])
    assert np.isnan(values[1:3]).all()
    np.testing.assert_array_equal(decode_vectors(theirs, 4)[0], matrix)
    assert decode_vectors([], 4)[0].shape == (0, 4)
    short = proto_bytes("float32_list", [1.0, 2.0])
    with pytest.raises(FeatureError, match="a vector of 4 columns, found one of 2"):
        decode_vectors([theirs[0], short], 4)
    with pytest.raises(FeatureError, match="wanted a Feast value of type float32_list"):
        decode_vectors([proto_bytes("string", "x" * 18)], 4)
    with pytest.raises(InputError, match=r'"vec".*a vector of 2 columns in place of 4'):
        frame_column(declared, matrix[:, :2])


def test_values_of_another_type_are_named() -> None:
    with pytest.raises(FeatureError, match="type float32, found"):
        decode_float_rows([[proto_bytes("int64", 12345)], [proto_bytes("float32", 1.0)]], 1)
    with pytest.raises(FeatureError, match="type int64, found"):
        decode_column([proto_bytes("string", "x")], "int64")
    for kind, bad in (
        ("int64", [1.5]), ("int32", [2**31]), ("string", [3]), ("float32", ["x"]), ("bool", [2]),
        ("string_list", [[1]]), ("bytes", ["x"]),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f'feature "f": wanted {kind} values'):
            frame_column(feature("v", "f", kind), bad)  # type: ignore[arg-type]


def test_nan_is_written_as_null_and_arrow_columns_are_taken() -> None:
    declared = feature("v", "f", "float32")
    nan = np.array([1.0, np.nan], dtype=np.float32)
    for column in (nan, [1.0, None], pa.array([1.0, None], pa.float32()), [1.0, math.nan]):
        assert rows_of(frame_column(declared, column)) == frame([proto_bytes("float32", 1.0), b""])
    numbers = pa.chunked_array([pa.array([2**53 + 1, None]), pa.array([-1])])
    rows = rows_of(frame_column(feature("v", "f", "int64"), numbers))
    assert rows == frame([proto_bytes("int64", v) for v in (2**53 + 1, None, -1)])
    lists = pa.array([["a"], None, []], pa.list_(pa.string()))
    rows = rows_of(frame_column(feature("v", "f", "string_list"), lists))
    assert rows == frame([proto_bytes("string_list", v) for v in (["a"], None, [])])
    masked = np.ma.MaskedArray([1, 2], mask=[False, True])
    rows = rows_of(frame_column(feature("v", "f", "int64"), masked))
    assert rows == frame([proto_bytes("int64", 1), b""])


times = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999) | st.integers(
    1_600_000_000_000_000, 1_900_000_000_000_000
)


@given(st.lists(times, min_size=1, max_size=40), st.booleans())
def test_event_times(all_us: list[int], with_gap: bool) -> None:
    theirs = [
        Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1000).SerializeToString()
        for us in all_us
    ]
    numbers = [struct.pack("<dd", one // 10**6, one % 10**6 * 1000) for one in all_us]
    found = frame_times(np.array(all_us))
    assert found == [own + one for own, one in zip(numbers, frame(theirs), strict=True)]
    assert list(map(encode_timestamp_us, all_us)) == theirs
    assert list(map(decode_timestamp_us, theirs)) == all_us
    stored = [None, *theirs] if with_gap else theirs
    found, gone = decode_timestamps(stored)
    assert found.tolist() == ([0] if with_gap else []) + all_us
    assert (gone.tolist() if gone is not None else []) == (
        [value is None for value in stored] if with_gap else []
    )


KEYS: dict[KeyType, tuple[str, st.SearchStrategy[Any]]] = {
    "int64": ("int64_val", int64s),
    "int32": ("int32_val", int32s),
    "string": ("string_val", texts),
    "bytes": ("bytes_val", st.binary()),
    "timestamp": ("unix_timestamp_val", int64s),
}


@given(st.data())
def test_entity_keys(data: st.DataObject) -> None:
    names = sorted(data.draw(st.sets(st.text("abcé_", min_size=1), min_size=1, max_size=3)))
    kinds = [data.draw(st.sampled_from(sorted(KEYS))) for _ in names]
    rows = data.draw(st.lists(st.tuples(*(KEYS[kind][1] for kind in kinds)), max_size=5))
    shuffled = data.draw(st.permutations(range(len(names))))
    theirs = [
        serialize_entity_key(
            EntityKey(
                join_keys=[names[i] for i in shuffled],
                entity_values=[protos.Value(**{KEYS[kinds[i]][0]: row[i]}) for i in shuffled],
            ),
            entity_key_serialization_version=3,
        )
        + b"shop"
        for row in rows
    ]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    assert EntityKeyColumns(names, kinds, "shop").build(columns) == theirs


def test_keys_that_are_none_are_named() -> None:
    keys = EntityKeyColumns(["user"], ["int64"], "shop")
    for bad in ([None], ["42"], [1.5], [2**63], [True]):
        with pytest.raises(InputError, match='join key "user": wanted int64 values'):
            keys.build({"user": bad})
    with pytest.raises(InputError, match='found no "user" among'):
        keys.build({"item": [1]})
    with pytest.raises(InputError, match='join key "user": wanted string values, found None'):
        EntityKeyColumns(["user"], ["string"], "shop").build({"user": ["a", None]})
    two = EntityKeyColumns(["a", "b"], ["int64", "string"], "shop")
    with pytest.raises(InputError, match="of one length"):
        two.build({"a": [1, 2], "b": ["x"]})


def test_the_longest_packed_header() -> None:
    many = [float(n) for n in range(5000)]
    stored = proto_bytes("float32_list", many)
    assert decode_vectors([stored], 5000)[0].tolist() == [many]
    assert rows_of(frame_column(feature("v", "f", "float32_list"), np.array([many]))) == frame(
        [stored]
    )
    assert struct.unpack("<f", stored[-4:])[0] == 4999.0

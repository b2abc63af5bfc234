"""Fields as they travel are the fields."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recsys.features.packed_fields import PackedFields, each_packed, merged, pack

FIELDS = st.dictionaries(st.binary(max_size=4), st.binary(max_size=5), max_size=5)


@given(st.lists(FIELDS, max_size=5))
def test_of_two_of_a_name_the_later_counts(many: list[dict[bytes, bytes]]) -> None:
    wanted: dict[bytes, bytes] = {}
    for fields in many:
        wanted |= fields
    packed = PackedFields([pack(fields) for fields in many])
    assert dict(packed) == wanted == dict(PackedFields(each_packed(wanted)))
    assert len(packed) == len(wanted)
    assert all(packed[name] == value for name, value in wanted.items())


@given(st.lists(FIELDS, min_size=1, max_size=200))
def test_merging_keeps_what_was_told_last(many: list[dict[bytes, bytes]]) -> None:
    wanted = dict(many[0])
    together: PackedFields | dict[bytes, bytes] = many[0]
    for fields in many[1:]:
        wanted |= fields
        together = merged(together, PackedFields([pack(fields)]))
    assert dict(together) == wanted

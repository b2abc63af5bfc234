"""One schema: the committed files are what the types say, and nothing is lost on the way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.grpc_api import __main__ as generator
from recsys.grpc_api import numbers, proto_text
from recsys.grpc_api.convert import to_mapping, to_message
from recsys.grpc_api.methods import METHODS
from recsys.grpc_api.schema import MESSAGES, message_class
from recsys.grpc_api.shapes import ATTRIBUTE_VALUE, Field, Message

SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(max_size=8),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(allow_nan=False),
    "bool": st.booleans(),
}
ATTRIBUTES = st.one_of(*SCALARS.values(), st.lists(SCALARS["string"], max_size=2))


def values(field: Field) -> st.SearchStrategy[Any]:
    if field.is_scalar:
        return SCALARS[field.of]
    if field.of == ATTRIBUTE_VALUE:
        return ATTRIBUTES
    if field.of.endswith("ByName"):
        return st.dictionaries(SCALARS["string"], SCALARS["double"], max_size=2)
    return mappings(MESSAGES[field.of])


def mappings(message: Message) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings that a message can say: what requests leave out stays out, answers say all."""
    if message.tag_field is not None:
        return st.one_of(
            *(
                mappings(MESSAGES[field.of]).map(
                    lambda said, kind=field.name: {"kind": kind} | said
                )
                for field in message.fields
            )
        )
    required, optional = {}, {}
    for field in message.fields:
        least = 1 if message.asks and not field.required else 0
        one = values(field)
        if field.label == "many":
            one = st.lists(one, min_size=least, max_size=2)
        elif field.label == "by_name":
            one = st.dictionaries(SCALARS["string"], one, min_size=least, max_size=2)
        may_be_absent = field.optional or message.asks or not field.is_scalar
        if field.label != "one" and (field.required or not message.asks):
            may_be_absent = False
        may_be_absent = may_be_absent and field.default is None
        (optional if may_be_absent else required)[field.name] = one
    return st.fixed_dictionaries(required, optional=optional)


def test_committed_files_are_those_of_the_types() -> None:
    known = numbers.load()
    assert numbers.extended(known, MESSAGES) == known, "run `python -m recsys.grpc_api`"
    assert generator.PROTO_FILE.read_text() == proto_text.render(MESSAGES, known, METHODS)


def test_no_number_is_given_twice_or_taken_back() -> None:
    for message, fields in numbers.load().items():
        assert sorted(fields.values()) == list(range(1, len(fields) + 1)), message
    one = Field(name="one", of="string", is_scalar=True)
    three = Field(name="three", of="string", is_scalar=True)
    known = {"M": {"one": 1, "two": 2}}
    grown = numbers.extended(known, {"M": Message(name="M", fields=(three, one))})
    assert grown == {"M": {"one": 1, "two": 2, "three": 3}}
    message = Message(name="M", fields=(one, three))
    assert numbers.reserved(grown, message) == {"two": 2}
    text = proto_text.render({"M": message}, grown, ())
    assert '  reserved 2;\n  reserved "two";\n  string one = 1;\n  string three = 3;\n' in text
    with pytest.raises(KeyError, match=r"run `python -m recsys\.grpc_api`"):
        numbers.number_of(known, "M", "three")


@pytest.mark.parametrize(
    "name", [kind.__name__ for method in METHODS for kind in (method.request, method.answer)]
)
def test_nothing_is_lost_on_the_way(name: str) -> None:
    @given(mappings(MESSAGES[name]))
    def check(said: dict[str, Any]) -> None:
        sent = to_message(name, said).SerializeToString()
        found = to_mapping(message_class(name).FromString(sent))
        assert found == said
        assert json.dumps(found, sort_keys=True) == json.dumps(said, sort_keys=True)  # 1 is not 1.0

    check()


@pytest.mark.parametrize(
    ("name", "said", "why"),
    [
        ("RecommendRequest", {"user_id": "a", "kk": 3}, "RecommendRequest: .* found kk"),
        ("EventsRequest", {"events": [{"kind": "click"}]}, "kind: wanted one of item, user"),
        ("EventsRequest", {"events": [{"event_id": "a"}]}, "found None"),
        ("ItemEvent", {"attributes": {"a": {"b": 1}}}, "wanted a text, number"),
    ],
)
def test_what_has_no_place_is_refused(name: str, said: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        to_message(name, said)

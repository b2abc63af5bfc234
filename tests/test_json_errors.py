"""Every message names the field, what was wanted and what was found."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.json_errors import Explanation, explain
from recsys.wire import RecommendRequest

decode = msgspec.json.Decoder(RecommendRequest).decode


def explained(data: bytes) -> Explanation:
    with pytest.raises((ValueError, RecursionError)) as caught:
        decode(data)
    return explain(data, caught.value, decode)


def request(**fields: Any) -> bytes:
    return json.dumps({"user_id": "ann"} | fields).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (request(k=0), "k: wanted int >= 1, found 0"),
        (request(k="5"), "k: wanted int, found str"),
        (b"{}", "user_id: wanted this field, found none"),
        (request(x=1), "x: wanted only fields of the schema, found an unknown field"),
        (
            request(filters={"x`y": 1}),
            "filters.x`y: wanted only fields of the schema, found an unknown field",
        ),
        (request(filters={"categories": ["a", 5]}), "filters.categories[1]: wanted str, found int"),
        (request(context={"a": "b", "c": 1}), "context.c: wanted str, found int"),
        (request(context={"": "b"}), "context: wanted keys to be str of length >= 1, found ''"),
        (
            request(objective_weights={"click": 1, "buy": -1, "hide": 2}),
            "objective_weights.buy: wanted float >= 0.0, found -1",
        ),
        (b'{"context": {"a": 5}}', "context.a: wanted str, found int"),
        (b"5", "wanted object, found int"),
        (
            b'{"user_id": "\\ud800"}',
            r"user_id: wanted Unicode text, found half a surrogate pair, \ud800 at byte 13",
        ),
        (
            b'{"user_id": "\\\\ud800 \\ud83d\\ude00 \\udc00 and more text"}',
            r"user_id: wanted Unicode text, found half a surrogate pair, \udc00 at byte 34",
        ),
        (
            b'{"user_id": "\\ud83d',
            "wanted one JSON object, found something else: Input data was truncated",
        ),
    ],
)
def test_message(data: bytes, message: str) -> None:
    assert explained(data).message == message


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.floats(0, 9), max_size=12), st.data())
def test_the_wrong_key_of_a_mapping_is_named(weights: dict[str, Any], data: st.DataObject) -> None:
    wrong = data.draw(st.text(min_size=1, max_size=8))
    weights[wrong] = data.draw(st.sampled_from([-1.0, 1e7]))
    why = explained(request(objective_weights=weights))
    assert why.field == f"objective_weights.{wrong}"
    assert why.found == repr(weights[wrong])


def test_a_key_that_comes_twice_and_too_many_keys_are_left_unnamed() -> None:
    twice = explained(b'{"user_id": "a", "context": {"a": 1, "a": "b"}}')
    assert twice.message == "context[...]: wanted str, found int"
    many = explained(request(context={str(key): key for key in range(2_000)}))
    assert many.field == "context[...]"

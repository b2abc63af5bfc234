"""Where the copies of the progress lie, and how far it must go back when one is behind."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.features.guard_nodes import copy_key, copy_keys, layout_of, lowered
from recsys.features.progress import progress_key
from recsys.features.redis.address import Node, parse
from recsys.features.redis.commands import NUM_SLOTS, slot_of
from recsys.features.redis.routing import Topology

HOME = progress_key("n")


def topology(*runs: tuple[int, int, int]) -> Topology:
    """Give a cluster of runs of slots: first, last, and the port of who has them."""
    known = Topology(parse("redis+cluster://h:1"))
    known.learn([[first, last, [b"h", port]] for first, last, port in runs], Node("h", 1))
    return known


def test_every_slot_has_a_copy_of_its_own() -> None:
    assert [slot_of(key) for key in copy_keys(HOME)] == list(range(NUM_SLOTS))


def test_each_node_has_one_copy_and_home_comes_first() -> None:
    at_home = slot_of(HOME)
    cut = at_home + 100
    layout = layout_of(topology((0, cut, 1), (cut + 1, 16_000, 2), (16_001, 16_383, 3)), HOME)
    assert layout is not None
    assert layout.keys == (HOME, copy_key(HOME, cut + 1), copy_key(HOME, 16_001))
    assert [layout.node_of(key) for key in layout.keys] == [0, 1, 2]
    assert layout.shape == f"0-{cut}:0,{cut + 1}-16000:1,16001-16383:2".encode()
    # Who the nodes are does not matter, only who has what with whom.
    again = layout_of(topology((16_001, 16_383, 9), (0, cut, 8), (cut + 1, 16_000, 7)), HOME)
    assert again is not None
    assert (again.keys, again.shape) == (layout.keys, layout.shape)
    np.testing.assert_array_equal(again.node_of_slot, layout.node_of_slot)
    other = layout_of(topology((0, cut, 1), (cut + 1, 16_000, 2), (16_001, 16_383, 1)), HOME)
    assert other is not None
    assert (len(other.keys), other.shape != layout.shape) == (2, True)


def test_slots_with_no_node_are_no_layout() -> None:
    assert layout_of(topology((0, 16_000, 1)), HOME) is None
    assert layout_of(Topology(parse("redis+cluster://h:1")), HOME) is None


WHOLE = {b"epoch": b"e", b"owner:t:0": b"x", b"t/0": b"10", b"base:t/0": b"2"}


@pytest.mark.parametrize(
    ("copies", "wanted"),
    [
        ([WHOLE, WHOLE], {}),
        ([WHOLE | {b"t/0": b"12"}], {}),
        ([WHOLE | {b"t/0": b"9"}], {b"t/0": b"9", b"base:t/0": b"2"}),
        (
            [WHOLE | {b"t/0": b"9"}, WHOLE | {b"t/0": b"7", b"base:t/0": b"1"}],
            {b"t/0": b"7", b"base:t/0": b"1"},
        ),
        ([WHOLE | {b"t/0": b"7"}, WHOLE | {b"t/0": b"9"}], {b"t/0": b"7", b"base:t/0": b"2"}),
        ([{b"epoch": b"e"}, WHOLE | {b"t/0": b"9"}], {b"t/0": None, b"base:t/0": None}),
        ([WHOLE | {b"s@t/0": b"4"}, WHOLE | {b"s@t/0": b"3"}], {b"s@t/0": b"3"}),
        ([WHOLE | {b"u/1": b"4"}], {}),
    ],
)
def test_no_copy_may_be_behind(
    copies: list[dict[bytes, bytes]], wanted: dict[bytes, bytes | None]
) -> None:
    assert lowered(WHOLE, copies) == wanted


def test_a_state_that_catches_up_goes_back_to_the_lowest() -> None:
    home = WHOLE | {b"s@t/0": b"5"}
    assert lowered(home, [WHOLE]) == {}
    assert lowered(home, [WHOLE | {b"s@t/0": b"6"}]) == {}
    assert lowered(home, [WHOLE | {b"s@t/0": b"2"}]) == {b"s@t/0": b"2"}

"""One view of the plan: which state it has."""

from __future__ import annotations

import msgspec

from recsys.features import names
from tests.features.worlds import small_plan


def test_state_of_another_layout_has_another_name() -> None:
    view = small_plan().view(names.USER_ACTIVITY)
    fewer = msgspec.structs.replace(view, aggregates=view.aggregates[1:])
    finer = msgspec.structs.replace(
        view,
        aggregates=(
            msgspec.structs.replace(view.aggregates[0], slide_ms=60_000),
            *view.aggregates[1:],
        ),
    )
    renamed = msgspec.structs.replace(
        view,
        aggregates=(msgspec.structs.replace(view.aggregates[0], name="x"), *view.aggregates[1:]),
    )
    assert finer.state_field != view.state_field
    assert renamed.state_field == view.state_field, "a name is not part of the bytes"
    assert fewer.state_field == view.state_field, "the other functions still need the same tiles"

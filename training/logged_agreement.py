"""How many logged feature values are what the join gives for the same moment, feature by feature.

That is the skew between serving and training which a ranker on joined features learns with and one
on logged features does not. ``recsys features audit`` says where it comes from.
"""

from __future__ import annotations

import numpy as np
from rich.table import Table

from recsys.bundle.manifest import LoggedFeatures
from recsys.features.audit.tensors import equal_parts, parts_of
from recsys.features.history import UserHistory
from recsys.models.encode import UserEncoding, encode_users
from training.logged_lists import LoggedLists

SAMPLE = 500
"""Lists that are joined again, evenly from all of them: shares are known to ±4 % at worst."""


def compared(logged: LoggedLists, users: UserHistory, encoding: UserEncoding) -> LoggedFeatures:
    """Say what was learned from, and which share of each feature's values the join agrees with.

    Values are compared to the bit, in this run's rows and columns, at the moment the logged ones
    speak of.
    """
    num = len(logged.row)
    rows = np.unique(np.linspace(0, num - 1, min(num, SAMPLE)).astype(np.int64))
    who = logged.lists.user_id[logged.row[rows]].tolist()
    joined = encode_users(users.features_at(who, logged.as_of_ms[rows]), encoding)
    parts = parts_of(encoding)
    equal = np.zeros(len(parts), dtype=np.int64)
    for place, row in enumerate(rows.tolist()):
        ours = {name: values[row : row + 1] for name, values in logged.context.items()}
        theirs = {name: values[place : place + 1] for name, values in joined.items()}
        equal += np.array(equal_parts(parts, ours, theirs), dtype=np.int64)
    return LoggedFeatures(
        num_lists=num,
        left_out=dict(logged.left_out),
        num_repeated=logged.num_repeated,
        num_compared=len(rows),
        equal_share={
            f"{part.view}:{part.feature}": round(count / len(rows), 6)
            for part, count in zip(parts, equal.tolist(), strict=True)
        },
    )


def said(found: LoggedFeatures, logged: LoggedLists | None = None) -> str:
    """Give a line on which lists are learned from; with ``logged``, what there is to know of it."""
    left_out = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items())
    parts = [
        f"{found.num_lists} lists learn from features as logged at serving",
        f"left out: {left_out or 'none'}",
    ]
    feature, share = min(found.equal_share.items(), key=lambda entry: entry[1])
    parts.append(
        f"of {found.num_compared} joined again all values are equal"
        if share == 1.0
        else f"of {found.num_compared} joined again {share:.1%} are equal in {feature}, the least"
    )
    if found.num_repeated:
        parts.append(f"{found.num_repeated} exposures were there once more")
    if logged is not None and logged.other_plans:
        parts.append(
            f"bundles of other feature declarations answered ({', '.join(logged.other_plans)}): "
            "their columns are taken by name"
        )
    return "; ".join(parts)


def as_table(found: LoggedFeatures) -> Table:
    """Give the shares as a table, least equal first."""
    table = Table(
        title=f"logged values that equal the joined ones ({found.num_compared} lists)",
        title_justify="left",
    )
    table.add_column("feature")
    table.add_column("equal", justify="right")
    for feature, share in sorted(found.equal_share.items(), key=lambda entry: entry[1]):
        table.add_row(feature, f"{share:.1%}")
    return table

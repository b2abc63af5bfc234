"""On-demand features: Feast online, Feast offline and our evaluator come down to one function."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recsys.errors import FeatureError, InputError
from recsys.features import on_demand
from recsys.features.on_demand import OnDemandView, evaluate
from tests.features.offline_store import repositories
from tests.features.offline_store.repositories import write

pytestmark = pytest.mark.filterwarnings("ignore")
T = datetime(2026, 3, 1, tzinfo=UTC)
TAGS = on_demand.tags("tests.features.derived:weighed", ["product", "ratio"])


def applied(folder: Path, tags: dict[str, str]) -> tuple[Any, Any]:
    """Give a store with a view of scores, and the on-demand view declared over it."""
    from feast import Field, RequestSource
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Float64

    stamp = pa.timestamp("us", "UTC")
    rows = {
        "user_id": pa.array([1, 2, 3], pa.int64()),
        "event_timestamp": pa.array([T] * 3, stamp),
        "created": pa.array([T] * 3, stamp),
        "score": pa.array([1.5, -2.25, None], pa.float64()),
    }
    store = repositories.store(folder)
    user = repositories.entity("user_id")
    path = write(folder / "v.parquet", rows)
    store.apply([user, repositories.view("v", path, [user], {"score": Float64})])
    given = RequestSource(name="given", schema=[Field(name="factor", dtype=Float64)])

    @on_demand_feature_view(
        sources=[store.get_feature_view("v"), given],
        schema=[Field(name="ratio", dtype=Float64), Field(name="product", dtype=Float64)],
        mode="pandas",
        tags=tags,
    )
    def weighing(inputs: pd.DataFrame) -> pd.DataFrame:
        from recsys.features import on_demand
        from tests.features.test_on_demand import TAGS

        return on_demand.values_of_frame(TAGS, inputs)

    return store, weighing


def test_feast_online_feast_offline_and_ours_give_one_answer(tmp_path: Path) -> None:
    from recsys.features.feast_on_demand import compile_on_demand
    from recsys.features.feast_views import compile_view

    store, weighing = applied(tmp_path, TAGS)
    store.apply([weighing])
    store.materialize(T.replace(year=2025), T.replace(year=2027))
    wanted = ["v:score", "weighing:product", "weighing:ratio"]
    ids, factors = [1, 2, 3, 4, 1], [2.0, 0.3, 1.0, 5.0, 0.0]
    online = store.get_online_features(
        wanted, [{"user_id": i, "factor": f} for i, f in zip(ids, factors, strict=True)]
    ).to_dict()
    labels = pd.DataFrame({"user_id": ids, "factor": factors, "event_timestamp": [T] * 5})
    offline = store.get_historical_features(labels, wanted).to_df()

    view = compile_view(store.get_feature_view("v"), {"user": repositories.entity("user_id")})
    compiled = compile_on_demand(weighing, {"v": view})
    assert compiled.inputs == ("v:score", "factor")
    ours = evaluate(
        compiled,
        {"v:score": offline["score"].to_numpy(np.float64), "factor": np.array(factors)},
    )
    for name in ("product", "ratio"):
        assert ours[name].tolist() == online[name] == offline[name].tolist()
    assert ours["product"].tolist() == [3.0, -2.25 * 0.3, 0.0, 0.0, 0.0]
    assert ours["ratio"].tolist() == [0.75, -2.25 / 0.3, 0.0, 0.0, 0.0]


def test_what_cannot_be_evaluated_is_named(tmp_path: Path) -> None:
    from recsys.features.feast_on_demand import compile_on_demand
    from recsys.features.feast_views import compile_view

    def compiled(function: str, outputs: list[str]) -> OnDemandView:
        found = store, weighing = applied(tmp_path, on_demand.tags(function, outputs))
        assert found
        entities = {"user": repositories.entity("user_id")}
        return compile_on_demand(
            weighing, {"v": compile_view(store.get_feature_view("v"), entities)}
        )

    with pytest.raises(FeatureError, match='among factor, score, v__score; found "weather"'):
        compiled("tests.features.derived:unheard_of", ["product", "ratio"])
    with pytest.raises(FeatureError, match="wanted tag outputs to name product, ratio"):
        compiled("tests.features.derived:weighed", ["product"])
    for path in ("tests.features.derived:nothing", "no.such.module:f", "json"):
        with pytest.raises(FeatureError, match="wanted a function"):
            on_demand.function_of(path)
    view = OnDemandView(
        name="w",
        function="tests.features.derived:unfit",
        inputs=("v:score",),
        outputs=("a", "b"),
        output_types=("float64", "float64"),
    )
    with pytest.raises(FeatureError, match=r"wanted \[3, 2\] .* found \[3\]"):
        evaluate(view, {"v:score": np.zeros(3)})
    with pytest.raises(InputError, match="missing v:score"):
        evaluate(view, {})

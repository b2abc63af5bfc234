"""From an on-demand view as Feast has it to one of the plan: its function, inputs and outputs.

Apart from ``feast_views.py`` because nothing of it is stored: what is checked here is that a
function fits what it is given and what it promises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys.errors import FeatureError
from recsys.features.feast_views import value_type_of
from recsys.features.on_demand import (
    FUNCTION_TAG,
    OUTPUT_TYPES,
    OUTPUTS_TAG,
    OnDemandView,
    parameters_of,
)
from recsys.features.view import View


def compile_on_demand(view: Any, views: Mapping[str, View]) -> OnDemandView:
    """Compile an on-demand view whose tags name its function; others are Feast's alone.

    Raises:
        FeatureError: when a parameter of the function is none of its inputs, or two; or its
            outputs are not those of the schema.
    """
    sources: dict[str, list[str]] = {}
    for request in view.source_request_sources.values():
        for field in request.schema:
            sources.setdefault(field.name, []).append(field.name)
    for projection in view.source_feature_view_projections.values():
        chosen = {f.name for f in projection.features} or set(views[projection.name].feature_names)
        for name in sorted(chosen):
            full = f"{projection.name}:{name}"
            sources.setdefault(name, []).append(full)
            sources.setdefault(f"{projection.name}__{name}", []).append(full)
    function = view.tags[FUNCTION_TAG]
    inputs = []
    for name in parameters_of(function):
        found = sources.get(name, [])
        if len(found) != 1:
            raise FeatureError(
                f'on-demand view "{view.name}": wanted parameters of {function} among '
                f'{", ".join(sorted(sources))}; found "{name}"'
                + (f", which is {' and '.join(found)}" if found else "")
            )
        inputs += found
    outputs = tuple(view.tags.get(OUTPUTS_TAG, "").split(","))
    declared = sorted(f.name for f in view.features)
    if sorted(outputs) != declared:
        raise FeatureError(
            f'on-demand view "{view.name}": wanted tag {OUTPUTS_TAG} to name '
            f"{', '.join(declared)}; found {', '.join(outputs)}"
        )
    types = {f.name: value_type_of(f.dtype) or "" for f in view.features}
    strange = sorted(name for name, kind in types.items() if kind not in OUTPUT_TYPES)
    if strange:
        raise FeatureError(
            f'on-demand view "{view.name}": wanted outputs of {", ".join(OUTPUT_TYPES)}; found '
            f"others in {', '.join(strange)}"
        )
    return OnDemandView(
        name=view.name,
        function=function,
        inputs=tuple(inputs),
        outputs=outputs,
        output_types=tuple(types[name] for name in outputs),
    )

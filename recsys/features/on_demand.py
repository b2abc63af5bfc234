"""Features made at the moment of asking: pure functions over arrays, one code offline and online.

An on-demand view names its function by import path in its tags; Feast's own call of the view
(``values_of_frame``), training and serving (``evaluate``) all come down to that one function:

    @on_demand_feature_view(sources=[moment, user_activity], schema=[...],
                            tags=on_demand.tags("shop.features:click_rate", ["click_rate"]))
    def click_rate(inputs):
        return on_demand.values_of_frame(click_rate_tags, inputs)

Its parameters name the inputs: fields of a request source, or features of a source view (as
``feature``, or ``view__feature`` where two views share a name). Each is an array ``[B]``; it gives
``[B, outputs]``. What it is given is the same whoever calls, so what it gives is too, to the bit:
floats as float64 with NaN for a null, integers as int64 (as float64 when one of them is null), and
each array contiguous.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from recsys.errors import FeatureError, InputError

Array = NDArray[Any]
FUNCTION_TAG = "function"
OUTPUTS_TAG = "outputs"
OUTPUT_TYPES = ("float32", "float64", "int32", "int64", "bool")
AS_OF_MS = "as_of_ms"
"""Input that is the moment asked for, unless the request gives it."""


class OnDemandView(msgspec.Struct, frozen=True, kw_only=True):
    """One on-demand view of a plan."""

    name: str
    function: str
    """``module:function``."""
    inputs: tuple[str, ...]
    """Of each parameter: ``view:feature``, or the name of a field of the request."""
    outputs: tuple[str, ...]
    """Columns of what the function gives."""
    output_types: tuple[str, ...]
    """Of each output, among ``OUTPUT_TYPES``."""

    @property
    def source_views(self) -> tuple[str, ...]:
        """Give the views whose features it reads, each once."""
        return tuple(dict.fromkeys(name.split(":")[0] for name in self.inputs if ":" in name))


def tags(function: str, outputs: Sequence[str]) -> dict[str, str]:
    """Give the tags that say which function makes a view, and the order of its columns."""
    return {FUNCTION_TAG: function, OUTPUTS_TAG: ",".join(outputs)}


def evaluate(view: OnDemandView, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Give each output ``[B]`` by name. ``inputs`` holds an array ``[B]`` under each input's name.

    Raises:
        InputError: when an input is absent or they are not of one length.
        FeatureError: when the function is not there, or gives another shape than was declared.
    """
    missing = [name for name in view.inputs if name not in inputs]
    if missing:
        raise InputError(
            f'on-demand view "{view.name}": wanted {", ".join(view.inputs)}; missing '
            f"{', '.join(missing)}"
        )
    arrays = [np.asarray(inputs[name]) for name in view.inputs]
    found = _call(view.name, view.function, view.outputs, arrays)
    kinds = zip(view.outputs, view.output_types, strict=True)
    return {name: found[name].astype(kind) for name, kind in kinds}


def inputs_at(
    moments_ms: Array, request: Mapping[str, Any], views: Mapping[str, tuple[Sequence[str], Array]]
) -> dict[str, Array]:
    """Give inputs by name: of the moments, the request, and views read at those moments.

    ``views`` holds the names ``[F]`` and values ``[B, F]`` of each view.
    """
    inputs: dict[str, Array] = {AS_OF_MS: moments_ms}
    inputs |= {name: np.asarray(values) for name, values in request.items()}
    for view, (features, values) in views.items():
        inputs |= {f"{view}:{name}": values[:, n] for n, name in enumerate(features)}
    return inputs


def values_of_frame(declared: Mapping[str, str], frame: Any) -> Any:
    """Answer Feast's call of a view: a frame in, a frame of the same kind out.

    ``declared`` are the tags of the view.
    """
    function = declared[FUNCTION_TAG]
    outputs = declared[OUTPUTS_TAG].split(",")
    arrays = [frame[name].to_numpy() for name in parameters_of(function)]
    return type(frame)(_call(function, function, outputs, arrays))


@lru_cache(maxsize=256)
def function_of(path: str) -> Callable[..., Any]:
    """Import ``module:function``.

    Raises:
        FeatureError: when there is none.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise FeatureError(
            f'wanted a function at "module:name" that can be imported; found "{path}" ({error})'
        ) from error
    if not callable(found):
        raise FeatureError(f'wanted a function at "{path}"; found {type(found).__name__}')
    return found  # type: ignore[no-any-return]


def parameters_of(path: str) -> tuple[str, ...]:
    """Give the names of a function's inputs."""
    return tuple(inspect.signature(function_of(path)).parameters)


def _call(
    view: str, function: str, outputs: Sequence[str], arrays: Sequence[Array]
) -> dict[str, Array]:
    sizes = {len(array) for array in arrays}
    if len(sizes) > 1:
        raise InputError(f'on-demand view "{view}": wanted inputs of one length; found {sizes}')
    found = np.asarray(function_of(function)(*(_plain(array) for array in arrays)))
    rows = sizes.pop() if sizes else len(found)
    if found.shape != (rows, len(outputs)):
        raise FeatureError(
            f'on-demand view "{view}": wanted [{rows}, {len(outputs)}] from {function}; '
            f"found {list(found.shape)}"
        )
    return {name: found[:, n] for n, name in enumerate(outputs)}


def _plain(array: Array) -> Array:
    """Give an array in the one form that functions are given."""
    if array.dtype == object and all(
        value is None or isinstance(value, (int, float, np.number)) for value in array
    ):
        array = array.astype(np.float64)  # None becomes NaN
    if np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    elif np.issubdtype(array.dtype, np.integer):
        array = array.astype(np.int64)
    return np.ascontiguousarray(array)

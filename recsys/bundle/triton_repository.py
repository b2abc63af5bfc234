"""A bundle as one Triton model: a folder with a rendered ``config.pbtxt`` and ``1/model.py``.

One model answers recommend, rank and similar, told apart by the inputs a call brings, so that the
weights, the item table and torch are in memory once. Measured beside an ensemble of a retrieving
and a ranking model (10,000 items, two cores, calls taken in turn): 6.2 ms against 7.1 ms for one
user alone, and 335 MB against 622 MB. Its name carries the bundle's
id, so several bundles can be loaded side by side. Shapes and types come from
``models/signature.py`` and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.models import signature
from recsys.models.signature import Dimensions, TensorSpec

_PB_DTYPE = {
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "FP32": "TYPE_FP32",
    "BOOL": "TYPE_BOOL",
}


@dataclass(frozen=True, kw_only=True)
class TritonModelConfig:
    """How a served bundle behaves."""

    max_batch_size: int = 128
    """Users in one execution; requests of several API processes are put together up to here."""
    max_queue_delay_us: int = 0
    """Waiting for a fuller batch. 0: the API already batches what is waiting, and an idle server
    should answer at once."""
    num_candidates: int = 500
    """Candidates ranked when fewer answers are asked for."""
    num_threads: int = 1
    """torch threads. More would fight with the API and the server for the same cores."""
    refresh_interval_ms: int = 250
    """Between two looks at what changed among the moving item features; bounds their age."""
    max_created_items: int = 100_000
    """Items beside the bundle's own that may be added while it is served."""


@dataclass(frozen=True, kw_only=True)
class BundleToServe:
    """What the renderer needs to know of a bundle."""

    bundle_id: str
    path: Path
    dimensions: Dimensions


def unique_specs(specs: Iterable[TensorSpec]) -> list[TensorSpec]:
    """Give each tensor once, in order of first appearance. Raises when two disagree."""
    by_name: dict[str, TensorSpec] = {}
    for spec in specs:
        known = by_name.setdefault(spec.name, spec)
        assert (known.dtype, known.shape) == (spec.dtype, spec.shape), (known, spec)
    return list(by_name.values())


def model_inputs(d: Dimensions) -> list[TensorSpec]:
    """Give every input of the model; each of the three answers takes some of them."""
    return unique_specs(
        (*signature.recommend_inputs(d), *signature.rank_inputs(d), *signature.similar_inputs())
    )


def model_outputs(d: Dimensions) -> list[TensorSpec]:
    """Give every output of the model."""
    return unique_specs(
        (*signature.recommend_outputs(d), *signature.rank_outputs(d), *signature.similar_outputs())
    )


def render_config(
    name: str, d: Dimensions, parameters: Mapping[str, str], config: TritonModelConfig
) -> str:
    """Give the text of ``config.pbtxt``."""
    inputs = "\n".join(_input(spec) for spec in model_inputs(d))
    outputs = "\n".join(_output(spec) for spec in model_outputs(d))
    settings = "\n".join(
        f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}"
        for key, value in parameters.items()
    )
    return f"""# Rendered from recsys/models/signature.py; `recsys publish` overwrites changes.
name: {json.dumps(name)}
backend: "python"
max_batch_size: {config.max_batch_size}
{inputs}
{outputs}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
dynamic_batching {{ max_queue_delay_microseconds: {config.max_queue_delay_us} }}
{settings}
"""


def render(
    bundle: BundleToServe,
    repository: Path,
    *,
    name: str,
    template: Path,
    python_paths: Sequence[Path],
    state_dir: Path,
    config: TritonModelConfig = TritonModelConfig(),
) -> bool:
    """Write the model's folder ``<repository>/<name>`` and say whether it had to be.

    Whole or not at all; harmless when repeated. Triton loads a model anew whose folder changed, so
    one that holds the same is left alone.

    Args:
        bundle: What is served.
        repository: Triton's model repository.
        name: The model's name.
        template: The ``model.py`` to put there; its ``PYTHON_PATHS = ()`` is filled in.
        python_paths: Folders the model's interpreter must import from. It sees neither
            ``PYTHONPATH`` nor the virtual environment.
        state_dir: Where the model finds the addresses of the running servers.
        config: Batching, threads and freshness.
    """
    parameters = {
        "bundle_path": str(bundle.path.absolute()),
        "state_dir": str(state_dir.absolute()),
        "num_candidates": str(config.num_candidates),
        "num_threads": str(config.num_threads),
        "refresh_interval_ms": str(config.refresh_interval_ms),
        "max_created_items": str(config.max_created_items),
    }
    source = template.read_text()
    placeholder = "PYTHON_PATHS: tuple[str, ...] = ()"
    assert source.count(placeholder) == 1, f"{template} must hold `{placeholder}` once"
    paths = tuple(str(path.absolute()) for path in python_paths)
    files = {
        "config.pbtxt": render_config(name, bundle.dimensions, parameters, config),
        "1/model.py": source.replace(placeholder, f"PYTHON_PATHS: tuple[str, ...] = {paths!r}"),
    }
    target = repository / name
    if _holds(target, files):
        return False
    repository.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=repository))
    try:
        folder.chmod(0o755)
        for relative, text in files.items():
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if target.exists():
            shutil.rmtree(target)
        os.replace(folder, target)  # noqa: PTH105  one atomic step
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def rendered_for(repository: Path, name: str) -> str | None:
    """Give the state folder a model was rendered for; ``None`` for one that is not ours at all."""
    try:
        text = (repository / name / "config.pbtxt").read_text()
    except OSError:
        return None
    found = _STATE_DIR.search(text)
    return None if found is None else str(json.loads(found[1]))


def remove(repository: Path, name: str) -> None:
    """Remove a model's folder; harmless when it is not there."""
    shutil.rmtree(repository / name, ignore_errors=True)


_STATE_DIR = re.compile(
    r'^parameters \{ key: "state_dir" value \{ string_value: (".*") \} \}$', re.MULTILINE
)


def _holds(target: Path, files: Mapping[str, str]) -> bool:
    return all(
        (target / relative).is_file() and (target / relative).read_text() == text
        for relative, text in files.items()
    )


def _input(spec: TensorSpec) -> str:
    # Optional, because a call brings the inputs of one answer only. Ragged, because calls with
    # other numbers of excluded items or candidates may share an execution: the model pads them.
    ragged = " allow_ragged_batch: true" if -1 in spec.shape else ""
    return (
        f"input {{ name: {json.dumps(spec.name)} data_type: {_PB_DTYPE[spec.dtype]} "
        f"dims: {list(spec.shape)} optional: true{ragged} }}  # {spec.meaning}"
    )


def _output(spec: TensorSpec) -> str:
    return (
        f"output {{ name: {json.dumps(spec.name)} data_type: {_PB_DTYPE[spec.dtype]} "
        f"dims: {list(spec.shape)} }}  # {spec.meaning}"
    )

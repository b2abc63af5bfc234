"""What serves runs no code out of a file: neither pickles nor what hides one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCES = [path for folder in ("recsys", "serving") for path in sorted(Path(folder).rglob("*.py"))]
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def trouble(code: str) -> list[str]:
    found = []
    # Parsing every file would take longer than all the rest.
    if not any(word in code for word in (*UNPICKLERS, "load(")):
        return []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom) and node.module in UNPICKLERS:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "torch.load" and keywords.get("weights_only") != "True":
                found.append(called)
            if called == "np.load" and keywords.get("allow_pickle", "False") != "False":
                found.append(called)
            if called in ("yaml.load", "yaml.unsafe_load"):
                found.append(called)
    return found


def test_no_module_of_serving_unpickles() -> None:
    assert len(SOURCES) > 200
    assert {str(path): found for path in SOURCES if (found := trouble(path.read_text()))} == {}


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from dill import loads", "torch.load(f)", "np.load(f, allow_pickle=True)"],
)
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert trouble(code)

"""The rendered Triton model: its configuration follows from the signature, its folder is whole."""

from __future__ import annotations

import re
from pathlib import Path

from recsys.bundle.triton_repository import (
    BundleToServe,
    TritonModelConfig,
    model_inputs,
    model_outputs,
    render,
    rendered_for,
)
from recsys.models import signature
from tests.inference.toy_model import TOY_DIMENSIONS

TEMPLATE = Path("serving/model_repository/model.py")
BUNDLE = BundleToServe(bundle_id="abc", path=Path("bundles/abc"), dimensions=TOY_DIMENSIONS)


def rendered(repository: Path, **changes: object) -> bool:
    return render(
        BUNDLE,
        repository,
        name="recommend_abc",
        template=TEMPLATE,
        python_paths=[Path("/some/site-packages")],
        state_dir=Path("var"),
        config=TritonModelConfig(**changes),  # type: ignore[arg-type]
    )


def _text(repository: Path, file: str) -> str:
    rendered(repository)
    return (repository / "recommend_abc" / file).read_text()


def test_configuration_names_every_tensor_of_the_three_signatures(tmp_path: Path) -> None:
    text = _text(tmp_path, "config.pbtxt")
    for spec in (*model_inputs(TOY_DIMENSIONS), *model_outputs(TOY_DIMENSIONS)):
        dims = ", ".join(map(str, spec.shape))
        pattern = rf'name: "{spec.name}" data_type: TYPE_{spec.dtype} dims: \[{dims}\]'
        assert re.search(pattern, text), spec
    names = set(re.findall(r'(?:input|output) \{ name: "(\w+)"', text))
    wanted = (
        *signature.recommend_inputs(TOY_DIMENSIONS),
        *signature.recommend_outputs(TOY_DIMENSIONS),
        *signature.rank_inputs(TOY_DIMENSIONS),
        *signature.rank_outputs(TOY_DIMENSIONS),
        *signature.similar_inputs(),
        *signature.similar_outputs(),
    )
    assert names == {spec.name for spec in wanted}
    assert "max_queue_delay_microseconds: 0" in text
    assert str(Path("bundles/abc").absolute()) in text


def test_model_finds_its_packages_by_absolute_path(tmp_path: Path) -> None:
    source = _text(tmp_path, "1/model.py")
    assert "PYTHON_PATHS: tuple[str, ...] = ('/some/site-packages',)" in source
    compile(source, "model.py", "exec")


def test_rendering_again_touches_nothing_and_a_change_replaces_the_whole(tmp_path: Path) -> None:
    assert rendered(tmp_path)
    config = tmp_path / "recommend_abc" / "config.pbtxt"
    before = config.stat().st_mtime_ns
    assert not rendered(tmp_path)
    assert config.stat().st_mtime_ns == before  # Triton would reload a model whose files are newer
    assert rendered(tmp_path, max_batch_size=7)
    assert "max_batch_size: 7" in config.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["recommend_abc"]


def test_a_model_says_whose_it_is(tmp_path: Path) -> None:
    rendered(tmp_path)
    assert rendered_for(tmp_path, "recommend_abc") == str(Path("var").absolute())
    (tmp_path / "recommend_of_others").mkdir()
    (tmp_path / "recommend_of_others" / "config.pbtxt").write_text('name: "recommend_of_others"\n')
    assert rendered_for(tmp_path, "recommend_of_others") is None
    assert rendered_for(tmp_path, "recommend_absent") is None

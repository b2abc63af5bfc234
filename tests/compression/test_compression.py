"""What bytes keep of floats, and a compressed bundle beside the one it was made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from recsys.bundle.compress import write_compressed
from recsys.bundle.load import load_serving_model
from recsys.bundle.manifest import read_manifest
from recsys.compression.int8_linear import Int8Linear, use_int8
from recsys.compression.item_vectors import in_precision, of_tensors
from recsys.compression.product_quantised import fit_product_quantised
from recsys.compression.rowwise import decode_rows, encode_rows, product
from recsys.compression.weights import pack, unpack
from recsys.errors import BundleError, InputError
from recsys.models.config import Precision
from tests.bundle.test_bundle import small_plan
from tests.models.test_served_answers import users
from training.debug_bundle import make_debug_bundle


def drawn(seed: int, rows: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = 10.0 ** torch.randint(-6, 7, (rows, 1), generator=generator)
    return torch.randn(rows, size, generator=generator) * spread


@given(st.integers(0, 2**31), st.integers(0, 20), st.integers(1, 90))
def test_a_decoded_element_is_off_by_half_a_step_at_most(seed: int, rows: int, size: int) -> None:
    values = drawn(seed, rows, size)
    encoded, scale = encode_rows(values)
    error = (decode_rows(encoded, scale) - values).abs()
    assert bool((error <= scale.unsqueeze(1) * 0.5001).all())
    again = encode_rows(decode_rows(encoded, scale))
    assert torch.equal(again[0], encoded)


@pytest.mark.parametrize("value", [0.0, 1e-45, 3e38])
def test_rows_at_the_ends_of_float32(value: float) -> None:
    values = torch.full((2, 5), value)
    encoded, scale = encode_rows(values)
    found = decode_rows(encoded, scale)
    assert bool(torch.isfinite(found).all())
    assert torch.allclose(found, values, rtol=0.01, atol=1e-37)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_has_no_scale_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        encode_rows(torch.tensor([[1.0, value]]))


@given(st.integers(0, 2**31), st.integers(0, 40), st.integers(0, 40), st.integers(1, 70))
def test_the_product_is_that_of_the_integers(seed: int, users: int, rows: int, size: int) -> None:
    left, right = drawn(seed, users, size), drawn(seed + 1, rows, size)
    found = product(left, *encode_rows(right))
    own, own_scale = encode_rows(left)
    other, other_scale = encode_rows(right)
    sums = own.numpy().astype(np.int64) @ other.numpy().astype(np.int64).T
    wanted = torch.from_numpy(sums).double() * own_scale.double()[:, None] * other_scale.double()
    assert torch.allclose(found.double(), wanted, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "pq"])
def test_vectors_score_and_look_up_as_the_trained_ones_do(precision) -> None:
    torch.manual_seed(0)
    vectors = nn.functional.normalize(torch.randn(300, 32), dim=1)
    vectors[0] = 0.0
    held = in_precision(vectors, precision)
    user = nn.functional.normalize(torch.randn(7, 32), dim=1)
    step = {"float32": 1e-6, "float16": 2e-3, "int8": 2e-2, "pq": 0.3}[precision]
    assert torch.allclose(held.scores(user), user @ vectors.T, atol=step)
    index = torch.tensor([[0, 5, 5, 299], [0, 0, 0, 0]], dtype=torch.int32)
    local = held.local(index)
    assert torch.equal(local.place == 0, index == 0)
    assert torch.allclose(local.vectors[local.place.long()], vectors[index.long()], atol=step)
    if local.row is not None:
        assert torch.equal(local.row[local.place], index.long())
    wanted = user @ held.decoded().T
    assert torch.allclose(held.scores(user)[:, 1:], wanted[:, 1:], atol=min(step, 2e-2))
    again = of_tensors(held.tensors(), precision)
    assert torch.equal(again.decoded(), held.decoded())


def test_books_are_the_same_bytes_each_time_and_keep_the_nearest_items() -> None:
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(40, 32, generator=generator)
    vectors = centre.repeat(25, 1) + 0.5 * torch.randn(1000, 32, generator=generator)
    vectors = nn.functional.normalize(torch.cat([torch.zeros(1, 32), vectors]), dim=1)
    held = fit_product_quantised(vectors)
    assert torch.equal(
        held.tensors()["vectors"], fit_product_quantised(vectors).tensors()["vectors"]
    )
    assert sum(t.numel() for n, t in held.tensors().items() if n == "vectors") == 1001 * 8
    users = vectors[1:100]
    exact = (users @ vectors.T)[:, 1:].topk(20, dim=1).indices
    found = held.scores(users)[:, 1:].topk(20, dim=1).indices
    both = (exact.unsqueeze(2) == found.unsqueeze(1)).any(2).float().mean()
    assert float(both) > 0.6


@pytest.mark.parametrize(("num_items", "size"), [(255, 32), (300, 30)])
def test_too_small_for_books_is_said(num_items: int, size: int) -> None:
    with pytest.raises(InputError, match=f"found {num_items} items of size {size}; use int8"):
        fit_product_quantised(torch.randn(num_items + 1, size))


def test_a_file_of_another_precision_than_the_manifest_says_is_refused() -> None:
    held = in_precision(torch.randn(4, 8), "int8")
    with pytest.raises(BundleError, match=r"manifest says float16, the file holds torch\.int8"):
        of_tensors(held.tensors(), "float16")


def test_small_layers_and_layers_of_other_kinds_are_left() -> None:
    class Own(nn.Linear):
        pass

    module = nn.Sequential(nn.Linear(64, 64), nn.Sequential(nn.Linear(64, 2)), Own(2, 600))
    values = torch.randn(3, 5, 64)
    wanted = module(values)
    assert use_int8(module) == 1
    kinds = [type(layer) for layer in (module[0], module[1][0], module[2])]
    assert kinds == [Int8Linear, nn.Linear, Own]
    assert torch.allclose(module(values), wanted, atol=0.03)


def test_packed_weights_are_a_quarter_and_compute_the_same_in_int8() -> None:
    linear = nn.Linear(64, 64)
    stored = pack(linear.state_dict())
    assert stored["weight"].dtype == torch.int8 and stored["bias"].dtype == torch.float32
    decoded = nn.Linear(64, 64)
    decoded.load_state_dict(unpack(stored))
    values = torch.randn(9, 64)
    assert torch.equal(Int8Linear(decoded)(values), Int8Linear(linear)(values))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_debug_bundle(tmp_path_factory.mktemp("bundles"), plan=small_plan())


@pytest.mark.parametrize(
    "precision",
    [
        Precision(item_vectors="float16"),
        Precision(item_vectors="int8"),
        Precision(towers="int8", ranker="int8"),
        Precision(item_vectors="int8", towers="int8", ranker="int8"),
    ],
)
def test_a_compressed_bundle_answers_nearly_the_same(
    bundle: Path, tmp_path: Path, precision: Precision
) -> None:
    manifest = write_compressed(bundle, precision, tmp_path / "small", now_ms=1)
    whole, small = load_serving_model(bundle), load_serving_model(tmp_path / "small")
    assert manifest.compressed_from == read_manifest(bundle).bundle_id != manifest.bundle_id
    assert read_manifest(tmp_path / "small").precision == precision
    context = users(whole, 9, seed=3)
    assert torch.allclose(small.user_vectors(context), whole.user_vectors(context), atol=0.06)
    index = torch.arange(1, 41, dtype=torch.int32).expand(9, -1)
    answers = [model.rank(context, model.score_sources(context, index)) for model in (whole, small)]
    error = (answers[0].objective_score - answers[1].objective_score).abs()
    assert float(error.max()) < 0.1
    size = {
        folder: sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        for folder in (bundle, tmp_path / "small")
    }
    assert size[tmp_path / "small"] < size[bundle]


def test_the_same_bundle_and_precision_give_the_same_id(bundle: Path, tmp_path: Path) -> None:
    precision = Precision(item_vectors="int8")
    first = write_compressed(bundle, precision, tmp_path / "a", now_ms=1)
    second = write_compressed(bundle, precision, tmp_path / "b", now_ms=2)
    assert first.bundle_id == second.bundle_id


def test_a_compressed_bundle_is_not_compressed_again(bundle: Path, tmp_path: Path) -> None:
    write_compressed(bundle, Precision(ranker="int8"), tmp_path / "a", now_ms=1)
    with pytest.raises(InputError, match="is compressed already"):
        write_compressed(tmp_path / "a", Precision(towers="int8"), tmp_path / "b", now_ms=1)
    with pytest.raises(InputError, match="at least one part, found none"):
        write_compressed(bundle, Precision(), tmp_path / "c", now_ms=1)

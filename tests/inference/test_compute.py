"""What the model server computes: one composition whatever the batch, and how calls are stacked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.inference.collate import split_rows, stack_arrays
from recsys.inference.compute import answer
from recsys.inference.model import NUMPY_DTYPES
from recsys.models import signature
from serving.model_repository.stacking import pad_and_stack
from tests.inference.toy_model import TOY_DIMENSIONS, ToyModel

MODEL = ToyModel(40)


def user(history: list[int]) -> dict[str, np.ndarray]:
    arrays = {
        spec.name: np.zeros((1, *spec.shape), NUMPY_DTYPES[spec.dtype])
        for spec in signature.user_context(TOY_DIMENSIONS)
    }
    if history:
        arrays["history_index"][0, -len(history) :] = history
    return arrays


def recommend(
    history: list[int], *, k: int = 5, exclude: tuple[int, ...] = (0,), seen: bool = True
) -> dict[str, np.ndarray]:
    return {
        **user(history),
        "exclude_index": np.array([exclude], dtype=np.int32),
        "exclude_history": np.array([[seen]]),
        "k": np.array([[k]], dtype=np.int32),
    }


def run(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    return answer(MODEL, tensors, num_candidates=30, clock=lambda: 1_234)


CALLS = st.builds(
    recommend,
    st.lists(st.integers(1, 40), max_size=8, unique=True),
    k=st.integers(1, 12),
    exclude=st.lists(st.integers(1, 40), min_size=1, max_size=6).map(tuple),
    seen=st.booleans(),
)


@settings(max_examples=40)
@given(calls=st.lists(CALLS, min_size=1, max_size=5))
def test_a_call_gets_the_same_answer_alone_and_in_a_batch(
    calls: list[dict[str, np.ndarray]],
) -> None:
    outputs = {name: tensor.numpy() for name, tensor in run(stack_arrays(calls)).items()}
    for call, together in zip(calls, split_rows(outputs, calls), strict=True):
        alone = run(call)
        k = int(call["k"][0, 0])
        assert together["item_index"][0, :k].tolist() == alone["item_index"][0].tolist()
        np.testing.assert_allclose(together["score"][0, :k], alone["score"][0], rtol=1e-5)


@settings(max_examples=40)
@given(calls=st.lists(CALLS, min_size=1, max_size=5))
def test_arrays_and_tensors_are_stacked_alike(calls: list[dict[str, np.ndarray]]) -> None:
    arrays = stack_arrays(calls)
    tensors = pad_and_stack(
        [{name: torch.from_numpy(array) for name, array in call.items()} for call in calls]
    )
    assert set(arrays) == set(tensors)
    for name, array in arrays.items():
        assert array.dtype == calls[0][name].dtype
        np.testing.assert_array_equal(array, tensors[name].numpy())


def test_recommend_leaves_out_what_is_excluded_and_orders_by_score() -> None:
    outputs = run(recommend([7, 8], k=40, exclude=(1, 2, 0)))
    rows = outputs["item_index"][0].tolist()
    assert not {1, 2, 7, 8} & set(rows)
    assert sorted(rows)[-36:] == sorted(set(range(3, 41)) - {7, 8})
    assert rows[36:] == [0, 0, 0, 0]
    assert outputs["score"][0, 36:].tolist() == [-torch.inf] * 4
    real = outputs["score"][0, :36]
    assert (real[:-1] >= real[1:]).all()
    assert outputs["item_age_ms"].tolist() == [[1_234]]


def test_rank_keeps_the_order_given_and_marks_padding() -> None:
    outputs = run({**user([7]), "candidate_index": np.array([[5, 0, 9]], dtype=np.int32)})
    assert outputs["score"].shape == (1, 3)
    assert outputs["score"][0, 1] == -torch.inf
    assert outputs["objective_score"].shape == (1, 3, 2)


def test_similar_gives_the_nearest_other_items() -> None:
    inputs = {"item_index": np.array([[5]], np.int32), "k": np.array([[4]], np.int32)}
    outputs = run(inputs)
    cosine = MODEL.vectors @ MODEL.vectors[5]
    cosine[[0, 5]] = -torch.inf
    assert outputs["similar_index"][0].tolist() == cosine.topk(4).indices.tolist()


@pytest.mark.parametrize("k", [0, -1, 10**9])
def test_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(InputError, match="k: wanted 1 to"):
        run(recommend([1], k=k))


def test_inputs_of_no_answer_are_refused() -> None:
    with pytest.raises(InputError, match="candidate_index"):
        run(user([1]))

"""Chunks of any shape give the softmax that was never cut, and sampling estimates it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.models.chunked_softmax import chunk_shape, chunked_softmax
from recsys.models.losses import binary_cross_entropy, gbce, gbce_power, sampled_softmax

T, N, D = 37, 29, 8


def inputs(seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(T, D, generator=generator)
    items = torch.randn(N + 1, D, generator=generator)
    target = torch.randint(1, N + 1, (T,), generator=generator)
    return queries, items, target, torch.rand(T, generator=generator)


def naive(queries, items, target, weight, smoothing: float = 0.0) -> torch.Tensor:
    logits = queries @ items[1:].T
    losses = torch.nn.functional.cross_entropy(
        logits, target - 1, reduction="none", label_smoothing=smoothing
    )
    return (losses * weight).sum() / weight.sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("max_logits", [1, 7, N, 5 * N, 200, T * N, 10**9])
def test_any_bound_gives_the_naive_loss_and_gradients(max_logits: int, smoothing: float) -> None:
    queries, items, target, weight = inputs()
    found = []
    for loss_of in (
        lambda *a: naive(*a, smoothing=smoothing),
        lambda *a: chunked_softmax(
            *a, smoothing=smoothing, max_logits=max_logits, precision=torch.float32
        ),
    ):
        q, v = queries.clone().requires_grad_(), items.clone().requires_grad_()
        loss = loss_of(q, v, target, weight)
        (loss * 3.0).backward()
        found.append((loss.detach(), q.grad, v.grad))
    for exact, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, exact, atol=1e-5, rtol=1e-4)
    assert not found[1][2][0].any()  # the padding row


@given(st.integers(0, 10**6), st.integers(1, 10**7), st.integers(1, 10**8))
@settings(max_examples=200)
def test_a_chunk_never_exceeds_its_bound(places: int, items: int, bound: int) -> None:
    rows, columns = chunk_shape(places, items, bound)
    assert rows >= 1 and columns >= 1
    assert rows * columns <= bound or (rows == 1 and columns == 1)


def test_bfloat16_is_within_its_precision() -> None:
    queries, items, target, weight = inputs()
    exact = naive(queries, items, target, weight)
    for bound in (10**9, 100):
        near = chunked_softmax(queries, items, target, weight, max_logits=bound)
        assert abs(near.item() - exact.item()) < 0.02


def test_places_of_no_weight_and_no_places_give_nothing() -> None:
    queries, items, target, weight = inputs()
    q = queries.requires_grad_()
    chunked_softmax(q, items, target, weight * (torch.arange(T) < 5)).backward()
    assert q.grad is not None and q.grad[:5].any() and not q.grad[5:].any()
    none = chunked_softmax(queries[:0], items, target[:0], weight[:0])
    assert none.item() == 0.0


def test_sampling_estimates_the_full_softmax() -> None:
    """The corrected denominator is unbiased; its logarithm, and so the loss, nearly so."""
    queries, items, target, _ = inputs(1)
    queries = queries * 0.3
    exact = naive(queries, items, target, torch.ones(T)).item()
    generator = torch.Generator().manual_seed(2)
    popularity = torch.rand(N, generator=generator) + 0.2
    share = popularity / popularity.sum()
    in_batch, uniform = 150, 100
    logits = queries @ items.T
    estimates, uncorrected = [], []
    for _ in range(200):
        drawn = torch.cat([
            torch.multinomial(share, in_batch, replacement=True, generator=generator) + 1,
            torch.randint(1, N + 1, (uniform,), generator=generator),
        ])  # fmt: skip
        expected = in_batch * share[drawn - 1] + uniform / N
        common = {
            "positive_logit": logits.gather(1, target.unsqueeze(1)), "pool_logit": logits[:, drawn],
            "own_positive": drawn == target.unsqueeze(1), "weight": torch.ones(T, 1),
        }  # fmt: skip
        estimates.append(sampled_softmax(pool_log_q=expected.log(), **common).item())
        uncorrected.append(sampled_softmax(pool_log_q=torch.zeros(len(drawn)), **common).item())
    mean = sum(estimates) / len(estimates)
    deviation = torch.tensor(estimates).std().item() / math.sqrt(len(estimates))
    assert abs(mean - exact) < 4 * deviation + 0.01
    assert abs(sum(uncorrected) / len(uncorrected) - exact) > 0.5


def test_binary_losses_by_hand() -> None:
    positive, negative = torch.tensor([[2.0, 9.0]]), torch.tensor([[[0.5, -1.0], [9.0, 9.0]]])
    weight = torch.tensor([[1.0, 0.0]])

    def log_sigmoid(x: float) -> float:
        return -math.log1p(math.exp(-x))

    bad = log_sigmoid(-0.5) + log_sigmoid(1.0)
    plain = -(log_sigmoid(2.0) + bad) / 3
    assert math.isclose(
        binary_cross_entropy(positive, negative, weight).item(), plain, rel_tol=1e-6
    )
    beta = gbce_power(2, num_items=11, calibration=0.75)
    assert math.isclose(beta, 0.2 * (0.75 * (1 - 5) + 5))
    general = -(beta * log_sigmoid(2.0) + bad) / 3
    found = gbce(positive, negative, weight, num_items=11)
    assert math.isclose(found.item(), general, rel_tol=1e-6)
    plain_again = gbce(positive, negative, weight, num_items=11, calibration=0.0)
    assert math.isclose(plain_again.item(), plain, rel_tol=1e-6)


def test_full_calibration_takes_the_overconfidence_away() -> None:
    """One item is right a tenth of the time; trained with one negative in nine others, plain
    cross-entropy says far more, gBCE with t = 1 says a tenth (their Theorem)."""
    num_items, share = 10, 0.1
    for calibration, wanted in ((0.0, None), (1.0, share)):
        # Every logit gets the expectation of the loss: positive with p, negative with (1 - p) / 9.
        logit = torch.zeros(1, requires_grad=True)
        beta = gbce_power(1, num_items=num_items, calibration=calibration)
        optimiser = torch.optim.LBFGS([logit], max_iter=50)

        def closure(beta: float = beta, logit: torch.Tensor = logit) -> torch.Tensor:
            logit.grad = None
            loss = -share * beta * torch.nn.functional.logsigmoid(logit)
            loss = loss - (1 - share) / 9 * torch.nn.functional.logsigmoid(-logit)
            loss.sum().backward()
            return loss.sum()

        for _ in range(5):
            optimiser.step(closure)
        said = logit.sigmoid().item()
        if wanted is None:
            assert said > 0.45
        else:
            assert abs(said - wanted) < 0.01

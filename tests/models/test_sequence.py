"""The sequence encoder: packing changes nothing, nobody sees the future or a neighbour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.models import attention
from recsys.models.attention import Reach, attend, mask_of, varlen_of
from recsys.models.config import SequenceConfig
from recsys.models.dropout import fast_dropout
from recsys.models.next_item import ItemAttributes, NextItemModel
from recsys.models.packing import Places, pack
from recsys.models.sequence import SequenceEncoder, pause_bucket

CONFIG = SequenceConfig(num_layers=2, num_heads=2, max_length=8, dropout=0.3, num_pauses=6)
SIZE = 16


def packed(lengths: list[int], row_length: int):
    length = np.array(lengths, dtype=np.int64)
    begin = np.cumsum(length) - length
    return pack(begin, length, row_length=row_length)


@given(st.lists(st.integers(1, 9), max_size=40))
@settings(max_examples=60)
def test_packing_keeps_every_event_once_in_order_and_wastes_little(lengths: list[int]) -> None:
    found = packed(lengths, 9)
    used = found.places.segment >= 0
    assert sorted(found.source[used].tolist()) == list(range(sum(lengths)))
    ends = np.cumsum(lengths)
    for row in range(len(found.source)):
        for place in range(9):
            if not used[row, place]:
                continue
            event = int(found.source[row, place])
            end = int(ends[np.searchsorted(ends, event, side="right")])
            assert found.places.from_newest[row, place] == end - 1 - event
    # 11/9 of the optimum, which is at least the total over the row's length.
    fewest = -(-sum(lengths) // 9)
    assert len(found.source) <= max(11 / 9 * max(fewest, sum(n > 4 for n in lengths)) + 1, 0)


def test_a_packed_sequence_gets_what_it_gets_alone() -> None:
    torch.manual_seed(0)
    encoder = SequenceEncoder(CONFIG, SIZE).eval()
    lengths = [3, 8, 1, 5, 2, 8, 4]
    vectors = torch.randn(sum(lengths), SIZE)
    pause = torch.rand(sum(lengths)) * 100
    found = packed(lengths, 8)
    together = encoder(vectors[found.source], found.places, pause_s=pause[found.source])
    begin = 0
    for length in lengths:
        own = slice(begin, begin + length)
        mask = torch.ones(1, length, dtype=torch.bool)
        alone = encoder(
            vectors[own].unsqueeze(0), Places.of_mask(mask), pause_s=pause[own].unsqueeze(0)
        )[0]
        used = found.places.segment >= 0
        inside = used & (found.source >= begin) & (found.source < begin + length)
        torch.testing.assert_close(together[inside], alone)
        begin += length


def test_a_later_event_changes_nothing_before_it() -> None:
    torch.manual_seed(0)
    encoder = SequenceEncoder(CONFIG, SIZE).eval()
    vectors, mask = torch.randn(1, 6, SIZE), torch.ones(1, 6, dtype=torch.bool)
    before = encoder(vectors, Places.of_mask(mask))
    vectors[0, 4] = torch.randn(SIZE)  # a constant would vanish in the normalisation
    after = encoder(vectors, Places.of_mask(mask))
    assert torch.equal(before[0, :4], after[0, :4])
    assert not torch.allclose(before[0, 4:], after[0, 4:])


def test_gradients_stay_within_a_sequence() -> None:
    encoder = SequenceEncoder(CONFIG, SIZE).eval()
    found = packed([3, 5], 8)
    vectors = torch.randn(1, 8, SIZE, requires_grad=True)
    second = found.places.segment == 1
    # Not the plain sum, which normalisation makes constant.
    (encoder(vectors, found.places)[second] @ torch.randn(SIZE)).sum().backward()
    assert vectors.grad is not None
    assert vectors.grad[second].abs().sum() > 0 and not vectors.grad[~second].any()


def test_recomputing_gives_the_same_gradients_dropout_included() -> None:
    torch.manual_seed(0)
    encoder = SequenceEncoder(CONFIG, SIZE).train()
    found, vectors = packed([3, 5, 2], 8), torch.randn(2, 8, SIZE)
    gradients = []
    for recompute in (False, True):
        encoder.config = replace(CONFIG, recompute=recompute)
        encoder.zero_grad()
        torch.manual_seed(1)
        (encoder(vectors, found.places) * vectors).sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, again)


def test_bfloat16_autocast_is_near_and_padding_is_finite() -> None:
    torch.manual_seed(0)
    encoder = SequenceEncoder(CONFIG, SIZE).eval()
    places = Places.of_mask(torch.tensor([[False, True, True], [False, False, False]]))
    vectors = torch.randn(2, 3, SIZE)
    exact = encoder(vectors, places)
    with torch.autocast("cpu", torch.bfloat16):
        near = encoder(vectors, places)
    assert torch.isfinite(exact).all()
    torch.testing.assert_close(near.float(), exact, atol=0.05, rtol=0.05)


def naive_varlen(query, key, value, offsets, _offsets, _max_q, _max_k, *, window_size):
    """What flash attention over offsets means, one sequence at a time."""
    assert window_size == (-1, 0)
    parts = []
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        q, k, v = (t[begin:end].transpose(0, 1).unsqueeze(0) for t in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


def test_attention_over_offsets_is_attention_under_the_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel itself needs CUDA; what is handed to it and taken back does not."""
    from torch.nn.attention import varlen

    monkeypatch.setattr(varlen, "varlen_attn", naive_varlen)
    places = packed([3, 8, 1, 5, 2, 8, 4], 8).places
    torch.manual_seed(0)
    heads = [torch.randn(*places.segment.shape, 2, 8) for _ in range(3)]
    masked = attend(*heads, Reach(mask=mask_of(places), varlen=None))
    flat = attend(*heads, Reach(mask=None, varlen=varlen_of(places)))
    used = places.segment >= 0
    torch.testing.assert_close(flat[used], masked[used])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_flash_attention_on_cuda_is_attention_under_the_mask() -> None:
    places = packed([3, 8, 1, 5, 2, 8, 4], 8).places.to(torch.device("cuda"))
    shape = (*places.segment.shape, 2, 16)
    heads = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    reach = attention.reach_of(places, dtype=torch.bfloat16, head_size=16)
    assert reach.varlen is not None
    used = places.segment >= 0
    flat, masked = attend(*heads, reach), attend(*heads, Reach(mask=mask_of(places), varlen=None))
    torch.testing.assert_close(flat[used].float(), masked[used].float(), atol=0.02, rtol=0.02)


def test_pauses_double() -> None:
    seconds = torch.tensor([0.0, 0.9, 1.0, 3.0, 7.0, 1e9, -5.0])
    assert pause_bucket(seconds, 6).tolist() == [0, 0, 1, 2, 3, 6, 0]


def test_dropout_keeps_the_mean_and_the_share() -> None:
    torch.manual_seed(0)
    out = fast_dropout(torch.ones(200_001), 0.3)
    assert abs((out == 0).float().mean().item() - 0.3) < 0.005
    assert abs(out.mean().item() - 1.0) < 0.01
    assert torch.equal(fast_dropout(torch.ones(5), 0.0), torch.ones(5))
    assert not fast_dropout(torch.ones(5), 1.0).any()


def test_an_item_without_events_shares_its_attributes_vector() -> None:
    attributes = ItemAttributes(
        offsets=torch.tensor([0, 0, 2, 3]), values=torch.tensor([0, 1, 1]), num_attributes=2
    )
    model = NextItemModel(CONFIG, size=SIZE, num_items=3, attributes=attributes)
    assert model.attributes is not None
    with torch.no_grad():
        model.identity.weight.zero_()
    table = model.attributes.weight
    vectors = model.item_vectors()
    torch.testing.assert_close(vectors[1], (table[0] + table[1]) / 2**0.5)
    torch.testing.assert_close(vectors[2], table[1])
    assert not vectors[0].any() and not vectors[3].any()


def test_a_tiny_model_learns_what_follows_what() -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, dropout=0.0, num_pauses=0)
    model = NextItemModel(config, size=32, num_items=12)
    rows = torch.stack([torch.roll(torch.arange(1, 10), shift) for shift in range(9)])[:, :8]
    places = Places.of_mask(torch.ones_like(rows[:, :-1], dtype=torch.bool))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        items = model.item_vectors()
        logits = model(rows[:, :-1], places, items) @ items.T
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    items = model.item_vectors()
    padded = torch.tensor([[0, 0, 0, 3, 4], [0, 0, 0, 0, 9]])
    assert (model.read(padded, items) @ items.T).argmax(1).tolist() == [5, 1]

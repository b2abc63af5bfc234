"""Tastes drift as stated, popularity is skewed, and text can be read."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from recsys.clock import DAY_MS
from recsys.events.schema import Event, ImpressionEvent, InteractionEvent, ItemEvent
from recsys.simulation import World
from recsys.simulation.counter_random import Stream, fold, normal, root, uniform
from recsys.simulation.users import AGE_GROUPS
from recsys.simulation.vocabulary import style_words


def gini(counts: npt.NDArray[np.float64]) -> float:
    x = np.sort(counts)
    n = len(x)
    return float((2 * np.arange(1, n + 1) - n - 1) @ x / (n * x.sum()))


def test_named_draws_are_uniform_and_unrelated() -> None:
    names = fold(fold(root(3, Stream.CLICK), np.arange(500))[:, None], np.arange(400))
    draws = uniform(names)
    assert draws.min() > 0.0
    assert draws.max() < 1.0
    counts = np.bincount((draws.ravel() * 100).astype(int), minlength=100)
    assert ((counts - 2_000) ** 2 / 2_000).sum() < 99 + 6 * math.sqrt(2 * 99)
    for other in (np.roll(draws, 1, axis=0), np.roll(draws, 1, axis=1)):
        assert abs(np.corrcoef(draws.ravel(), other.ravel())[0, 1]) < 5 / math.sqrt(draws.size)
    z = normal(fold(root(3, Stream.USER), np.arange(50_000)), 4)
    assert np.abs(z.mean(axis=0)).max() < 5 / math.sqrt(50_000)
    assert np.abs(np.cov(z.T) - np.eye(4)).max() < 0.03


def test_topic_weights_have_the_stated_autocorrelation(world: World) -> None:
    profiles = world.profiles(np.arange(400))
    config = world.config

    def raw(day: float) -> npt.NDArray[np.float64]:
        angle = profiles.frequency * day + profiles.phase
        return np.asarray((profiles.amplitude * np.cos(angle)).sum(axis=2)).ravel()

    now = raw(5.0)
    assert now.std() == pytest.approx(config.drift_strength, rel=0.1)
    for lag in (0.0, 7.0, 14.0, 28.0, 56.0):
        wanted = 0.5 ** (lag / config.drift_half_life_days)
        assert np.corrcoef(now, raw(5.0 + lag))[0, 1] == pytest.approx(wanted, abs=0.1)


def test_a_taste_is_a_function_of_user_and_time_alone(world: World) -> None:
    time = np.full(50, world.config.start_ms + 3 * DAY_MS + 12_345)
    together = world.users.tastes(world.profiles(np.arange(50)), time)
    alone = world.users.tastes(world.profiles(np.array([17])), time[:1])
    np.testing.assert_array_equal(together[17], alone[0])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0)


def test_attributes_tell_something_about_taste(world: World) -> None:
    users = np.arange(400)
    _, age, _ = world.users.demographics(users)
    topic = world.profiles(users).topics[:, 0]
    table = np.zeros((len(AGE_GROUPS), world.config.num_categories))
    np.add.at(table, (age, topic), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    chi2 = ((table - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    assert chi2 > freedom + 6 * math.sqrt(2 * freedom)


def test_activity_has_mean_one_and_a_heavy_head(world: World) -> None:
    activity = np.sort(world.users.activity(np.arange(100_000)))
    assert activity.mean() == pytest.approx(1.0, abs=0.02)
    assert 0.33 < activity[-10_000:].sum() / activity.sum() < 0.45


def test_sign_ups_never_go_back_in_time(world: World) -> None:
    times = world.users.sign_up_ms(np.arange(400))
    assert (np.diff(times) >= 0).all()
    middle = int(times[300])
    assert world.users.signed_up_between(middle, middle + 1).tolist() == [300]


def test_popularity_is_skewed_but_the_tail_is_seen(
    world: World, impressions: list[ImpressionEvent], events: list[Event]
) -> None:
    index = {item_id: i for i, item_id in enumerate(world.items.ids.tolist())}
    shown, clicked = np.zeros(len(index)), np.zeros(len(index))
    for impression in impressions:
        np.add.at(shown, [index[item] for item in impression.items], 1)
    for event in events:
        if isinstance(event, InteractionEvent) and event.type == "click":
            clicked[index[event.item_id]] += 1
    assert 0.40 < gini(shown) < 0.70
    assert 0.55 < gini(clicked) < 0.85
    assert (shown > 0).mean() > 0.95


def test_nouns_tell_the_category(world: World, events: list[Event]) -> None:
    items = [event for event in events if isinstance(event, ItemEvent) and event.available]
    words = [
        f"{e.title} {e.text}".lower().replace(",", "").replace(".", "").replace(":", "").split()
        for e in items
    ]
    vocabulary = {w: i for i, w in enumerate(sorted({w for text in words for w in text}))}
    bags = np.zeros((len(items), len(vocabulary)))
    for row, text in enumerate(words):
        # The category's own name would give the answer away.
        np.add.at(bags[row], [vocabulary[w] for w in text if w != items[row].category], 1)
    category = world.items.category[world.names.items([e.item_id for e in items])]
    train = np.arange(len(items)) % 2 == 0

    scores = []
    for c in range(world.config.num_categories):
        count = bags[train & (category == c)].sum(axis=0) + 0.1
        scores.append(bags[~train] @ np.log(count / count.sum()))
    assert (np.argmax(scores, axis=0) == category[~train]).mean() > 0.9


def test_style_words_tell_the_direction_of_an_item_beyond_its_category(
    world: World, events: list[Event]
) -> None:
    items = [event for event in events if isinstance(event, ItemEvent) and event.available]
    index = world.names.items([event.item_id for event in items])
    read = np.zeros((len(items), world.config.latent_dims))
    for row, event in enumerate(items):
        words = set(event.text.lower().replace(",", "").replace(".", "").split())
        for d in range(world.config.latent_dims):
            positive, negative = style_words(d)
            read[row, d] = (positive in words) - (negative in words)
    vector, category = world.items.vector[index].astype(float), world.items.category[index]
    assert _cosine(read, vector).mean() > 0.4
    for c in range(world.config.num_categories):
        read[category == c] -= read[category == c].mean(axis=0)
        vector[category == c] -= vector[category == c].mean(axis=0)
    assert _cosine(read, vector).mean() > 0.25


def _cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(length, 1e-9))


def test_a_staple_is_wanted_again_and_again(world: World) -> None:
    profiles = world.profiles(np.arange(20))
    days = np.arange(0, 40, 0.1)
    need = np.stack(
        [
            world.users.staple_need(
                profiles, np.full(20, world.config.start_ms + int(day * DAY_MS))
            )[:, 0]
            for day in days
        ]
    )
    assert need.min() == 0.0
    assert (need.max(axis=0) > 0.99).all()

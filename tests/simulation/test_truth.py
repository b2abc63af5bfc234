"""The truth, the log and the propensities agree with each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recsys.clock import DAY_MS
from recsys.errors import InputError
from recsys.events.schema import Event, ImpressionEvent, InteractionEvent
from recsys.simulation import LoggedRequests, World


@pytest.fixture(scope="module")
def logged(world: World, impressions: list[ImpressionEvent]) -> LoggedRequests:
    return world.logged_requests([impression.request_id for impression in impressions])


@pytest.fixture(scope="module")
def clicks(events: list[Event]) -> set[tuple[str | None, str]]:
    return {
        (event.request_id, event.item_id)
        for event in events
        if isinstance(event, InteractionEvent) and event.type == "click"
    }


def _softmax(scores: np.ndarray) -> np.ndarray:
    weight = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def test_replayed_requests_are_what_the_log_has(
    world: World,
    logged: LoggedRequests,
    impressions: list[ImpressionEvent],
    clicks: set[tuple[str | None, str]],
) -> None:
    for row, impression in enumerate(impressions):
        items = world.items.ids[logged.items[row]].tolist()
        assert items == impression.items
        assert logged.propensities[row].tolist() == pytest.approx(impression.propensities)
        recorded = [(impression.request_id, item) in clicks for item in items]
        assert logged.clicks[row].tolist() == recorded


def test_click_rate_at_each_position_is_what_the_model_says(
    world: World, logged: LoggedRequests
) -> None:
    chance = _of_shown(logged, logged.click_probability)
    for position in range(logged.items.shape[1]):
        p = chance[:, position] * world.behaviour.examination(np.array([position]))
        error = math.sqrt((p * (1 - p)).sum())
        assert logged.clicks[:, position].sum() == pytest.approx(p.sum(), abs=4 * error)


def test_click_rate_falls_with_position(logged: LoggedRequests) -> None:
    rate = logged.clicks.mean(axis=0)
    assert rate[0] > 2 * rate[4] > 2 * rate[11] > 0.01


def test_inverse_propensity_weights_average_to_one(logged: LoggedRequests) -> None:
    uniform = 1.0 / (logged.candidates >= 0).sum(axis=1)
    weight = uniform / logged.propensities[:, 0]
    assert weight.mean() == pytest.approx(1.0, abs=4 * weight.std() / math.sqrt(len(weight)))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_inverse_propensity_estimate_of_another_policy_agrees_with_the_truth(
    logged: LoggedRequests, temperature: float
) -> None:
    """The other policy fills the first place by the logging score at another temperature."""
    other = _softmax(logged.scores / temperature)
    truth = (other * logged.click_probability).sum(axis=1)  # position 0 is always looked at
    weight = _of_shown(logged, other)[:, 0] / logged.propensities[:, 0]
    estimate = weight * logged.clicks[:, 0]
    error = (estimate - truth).std() / math.sqrt(len(truth))
    assert estimate.mean() == pytest.approx(truth.mean(), abs=4 * error)
    assert error < 0.1 * truth.mean()


def test_conditional_propensities_are_right_at_the_second_place(logged: LoggedRequests) -> None:
    """Given the first item, a uniform choice among the rest is estimated without bias."""
    rest = (logged.candidates >= 0) & (logged.candidates != logged.items[:, :1])
    truth = (rest * logged.click_probability).sum(axis=1) / rest.sum(axis=1)
    reward = _of_shown(logged, logged.click_probability)[:, 1]
    estimate = reward / rest.sum(axis=1) / logged.propensities[:, 1]
    error = (estimate - truth).std() / math.sqrt(len(truth))
    assert estimate.mean() == pytest.approx(truth.mean(), abs=4 * error)


def test_knowing_the_truth_beats_the_logging_policy_and_popularity(
    world: World, logged: LoggedRequests
) -> None:
    row = np.arange(len(logged.candidates))
    present = logged.candidates >= 0
    logging = (_softmax(logged.scores) * logged.click_probability).sum(axis=1).mean()
    popular = np.where(present, world.items.quality[logged.candidates], -np.inf).argmax(axis=1)
    oracle = logged.click_probability.max(axis=1).mean()
    assert oracle > 1.5 * logging
    assert oracle > 1.5 * logged.click_probability[row, popular].mean()


def test_sessions_and_recent_taste_matter(world: World, logged: LoggedRequests) -> None:
    """On later pages the order by in-session truth beats static taste, which beats old taste."""
    later = np.flatnonzero(logged.time_ms > world.config.start_ms + 6 * DAY_MS)
    truth, candidates = logged.click_probability[later], logged.candidates[later]
    present = candidates >= 0

    def value(days_ago: int) -> float:
        users = logged.user[later].repeat(candidates.shape[1])
        times = (logged.time_ms[later] - days_ago * DAY_MS).repeat(candidates.shape[1])
        chance = world.click_probability(users, np.maximum(candidates, 0).ravel(), times)
        best = np.where(present, chance.reshape(candidates.shape), -1).argmax(axis=1)
        return float(truth[np.arange(len(later)), best].mean())

    assert truth.max(axis=1).mean() > value(0) + 0.01
    assert value(0) > value(20) + 0.03


def test_would_click_agrees_with_the_log_wherever_it_was_shown(
    world: World, impressions: list[ImpressionEvent], clicks: set[tuple[str | None, str]]
) -> None:
    for impression in impressions[:: len(impressions) // 150]:
        asked = (impression.user_id, impression.items, impression.event_time_ms)
        places = np.arange(len(impression.items))
        answer = world.would_click(*asked, impression.request_id, position=places)
        recorded = [(impression.request_id, item) in clicks for item in impression.items]
        assert answer.tolist() == recorded


def test_would_click_does_not_depend_on_the_rest_of_the_list(
    world: World, impressions: list[ImpressionEvent]
) -> None:
    impression = impressions[-1]
    everything = world.items.ids.tolist()
    user, time = impression.user_id, impression.event_time_ms
    for request in (impression.request_id, "somebody-else's"):
        whole = world.would_click(user, everything, time, request)
        assert whole[::-7].tolist() == (
            world.would_click(user, everything[::-7], time, request).tolist()
        )


def test_would_click_comes_true_as_often_as_its_probability(world: World) -> None:
    time = world.config.start_ms + 3 * DAY_MS
    items = world.best_items(5, time, 20)
    chance = world.click_probability(5, items, time, position=3)
    outcomes = [
        world.would_click(5, items, time, f"r{i}", position=3).astype(float) for i in range(600)
    ]
    # All places of a request share one look, so compare per item.
    error = np.sqrt(chance * (1 - chance) / 600)
    assert (np.abs(np.mean(outcomes, axis=0) - chance) < 4.5 * error).all()


def test_expected_clicks_and_best_items_fit_the_probabilities(world: World) -> None:
    time = world.config.start_ms + DAY_MS
    best = world.best_items("u0000003", time, 10)
    chance = world.click_probability("u0000003", best, time)
    assert (np.diff(chance) <= 0).all()
    by_hand = sum(p * (k + 1) ** -world.config.position_bias_exponent for k, p in enumerate(chance))
    assert world.expected_clicks("u0000003", best, time) == pytest.approx(by_hand)
    assert world.expected_clicks("u0000003", best[::-1], time) < by_hand
    assert world.best_items(3, time, 10_000) == world.best_items(3, time, 499)


@pytest.mark.parametrize(
    "request_id", ["", "nonsense", "{tag}.0.ffffff.0", "{tag}.ffff.0.0", "{tag}.0.0.99"]
)
def test_a_request_that_is_not_in_the_log_is_refused(world: World, request_id: str) -> None:
    with pytest.raises(InputError, match="request of the log"):
        world.logged_requests([request_id.format(tag=world.names.tag)])


def test_a_logged_request_of_somebody_else_is_refused(
    world: World, impressions: list[ImpressionEvent]
) -> None:
    impression = impressions[0]
    with pytest.raises(InputError, match="pass what the log has"):
        world.would_click(
            impression.user_id, impression.items, impression.event_time_ms + 1,
            impression.request_id,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["u0000400", "u400", "i000001", "", "u-000001", 400, -1])
def test_unknown_users_are_refused(world: World, name: str | int) -> None:
    with pytest.raises(InputError, match="u0000000 to u0000399"):
        world.click_probability(name, 0, world.config.start_ms)


def _of_shown(logged: LoggedRequests, of_candidates: np.ndarray) -> np.ndarray:
    """Give what ``of_candidates`` [n, C] says about the shown items, [n, L]."""
    match = logged.items[:, :, None] == logged.candidates[:, None, :]
    return np.asarray((match * of_candidates[:, None, :]).sum(axis=2))


def test_a_request_alone_is_the_request_in_the_crowd_to_the_bit(
    world: World, logged: LoggedRequests, impressions: list[ImpressionEvent]
) -> None:
    """Replay rests on it: sums must not depend on how many requests are worked on together."""
    for row in range(0, len(impressions), len(impressions) // 60):
        alone = world.logged_requests([impressions[row].request_id])
        for name in ("scores", "propensities", "click_probability", "candidates", "items"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(logged, name)[row])

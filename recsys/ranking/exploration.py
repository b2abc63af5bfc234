"""Policies: how the next item is drawn, and how likely that was.

Each draws one place at a time from the worth of the candidates that may stand there, and says the
chance with which it would have drawn this item at this place given the list above: what
counterfactual evaluation divides by. A policy's parameters are the operator's, never a caller's.

Axes: ``C`` candidates.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta

from recsys.features.batch import Bools
from recsys.ranking.similarity import Float64s
from recsys.ranking.thompson import chance_of_best

Drawn: TypeAlias = tuple[int, float]
"""Place of the candidate and its chance."""


class _Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True,
              tag_field="policy"):  # fmt: skip
    first_position: Annotated[int, Meta(ge=0, le=500)] = 0
    """Places above this one go by worth alone."""
    num_places: Annotated[int, Meta(ge=1, le=500)] = 100
    """Places drawn from there on; those below go by worth alone, which is quicker."""

    def draws_at(self, position: int) -> bool:
        """Say whether the item at ``position`` is drawn."""
        return self.first_position <= position < self.first_position + self.num_places

    def described(self) -> str:
        """Give name and parameters as the exposure has them: ``softmax(temperature=0.5)``."""
        where = {"first_position": 0, "num_places": type(self)().num_places}
        values = {
            name: getattr(self, name)
            for name in self.__struct_fields__
            if getattr(self, name) != where.get(name)
        }
        tag = self.__struct_config__.tag
        return f"{tag}({', '.join(f'{name}={values[name]:g}' for name in sorted(values))})"


class Epsilon(_Policy, frozen=True, kw_only=True, tag="epsilon"):
    """With chance ε an item drawn evenly from all that may stand there, else the best."""

    epsilon: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05

    def draw(
        self, worth: Float64s, allowed: Bools, spread: Float64s, rng: np.random.Generator
    ) -> Drawn:
        """Draw; the chance is exact."""
        best = draw_best(worth, allowed)
        by_chance, which = rng.random(2)
        places = np.flatnonzero(allowed)
        evenly = self.epsilon / len(places)
        place = int(places[int(which * len(places))]) if by_chance < self.epsilon else best
        return place, evenly + (1.0 - self.epsilon if place == best else 0.0)


class Softmax(_Policy, frozen=True, kw_only=True, tag="softmax"):
    """In proportion to ``exp(worth / temperature)``: a Plackett-Luce list."""

    temperature: Annotated[float, Meta(ge=1e-3, le=1e3)] = 0.5
    """In the units of worth: at 0.5, an item of e times the odds is drawn 7 times as often."""

    def draw(
        self, worth: Float64s, allowed: Bools, spread: Float64s, rng: np.random.Generator
    ) -> Drawn:
        """Draw; the chance is exact."""
        places = np.flatnonzero(allowed)
        weight = worth[places] / self.temperature
        weight = np.exp(weight - weight.max())
        up_to = np.cumsum(weight)
        # An item of weight 0 has no width here and is never hit.
        hit = int(np.searchsorted(up_to, rng.random() * up_to[-1], side="right"))
        hit = min(hit, int(np.flatnonzero(weight)[-1]))
        return int(places[hit]), float(weight[hit] / up_to[-1])


class Thompson(_Policy, frozen=True, kw_only=True, tag="thompson"):
    """The best by a draw from what each item's log-odds may truly be (``thompson.py``)."""

    prior_strength: Annotated[float, Meta(ge=1.0, le=1e6)] = 20.0
    """Observations the model's estimate alone is worth: fewer explore more."""
    num_places: Annotated[int, Meta(ge=1, le=500)] = 20
    """Fewer than elsewhere: the chance of one place among 500 candidates takes most of a ms."""

    def draw(
        self, worth: Float64s, allowed: Bools, spread: Float64s, rng: np.random.Generator
    ) -> Drawn:
        """Draw; ``spread`` ``[C]`` is the standard deviation of each worth."""
        places = np.flatnonzero(allowed)
        mean, deviation = worth[places], spread[places]
        best = int(np.argmax(mean + deviation * rng.standard_normal(len(places))))
        return int(places[best]), chance_of_best(mean, deviation, best)


Policy: TypeAlias = Epsilon | Softmax | Thompson


def draw_best(worth: Float64s, allowed: Bools) -> int:
    """Give the place of the best allowed candidate; of equals the earlier."""
    return int(np.argmax(np.where(allowed, worth, -np.inf)))

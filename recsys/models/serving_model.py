"""What a bundle can do, as the model server sees it: retrieve, rank, similar, refresh.

``recsys.bundle.load.load_serving_model(bundle_path)`` gives an implementation on CPU or CUDA. The
training code evaluates the very same object, so offline metrics speak of what is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from recsys.models.created_items import CreatedItems
from recsys.models.signature import Dimensions

UserContext = Mapping[str, Tensor]
"""Tensors of ``signature.user_context``, each with the batch axis first."""


class Candidates(NamedTuple):
    """Fused candidates of ``B`` users."""

    item_index: Tensor
    """``[B, C]`` int32, distinct per row, 0 pads."""
    source_score: Tensor
    """``[B, C, S]`` float32 score of every source for every candidate."""
    are_new: bool = False
    """Whether it is known that no user has a candidate of theirs in the history."""
    are_full: bool = False
    """Whether it is known that there is no padding."""


class Ranked(NamedTuple):
    """Scores aligned with the candidates they were asked for."""

    score: Tensor
    """``[B, C]`` float32 blended score, -inf where the candidate is padding."""
    objective_score: Tensor
    """``[B, C, O]`` float32 calibrated probability by objective."""


class ChangingItems(Protocol):
    """What a model keeps of each item, N of them, and how it changes.

    Nothing of the model may be asked while something changes, except by ``set_activity``.
    """

    @property
    def created(self) -> CreatedItems:
        """Items that were added since the bundle was made, by key."""

    def set_available(self, available: Tensor) -> None:
        """Swap in which items may be retrieved, ``[N + 1]`` bool (row 0 never is)."""

    def change(
        self, item_index: Sequence[int], available: Sequence[bool],
        tokens: Mapping[int, Iterable[str]],
    ) -> None:  # fmt: skip
        """Say which of some items may be retrieved from now on, and other tokens of some."""

    def set_activity(self, activity: Tensor, as_of_ms: int) -> None:
        """Swap in moving item features ``[N + 1, Fi]`` (row 0 is padding), in one step."""

    def change_activity(self, item_index: Tensor, activity: Tensor) -> None:
        """Write the moving features ``[M, Fi]`` of distinct items ``[M]``."""

    def confirm_activity(self, as_of_ms: int) -> None:
        """Say that the resident moving features are those of ``as_of_ms``, as they stand."""

    def activity_of(self, item_index: Tensor) -> Tensor:
        """Give ``[B, C, Fi]`` moving features of items ``[B, C]``, as ranking sees them now."""

    @property
    def activity_as_of_ms(self) -> int:
        """When the resident moving features were true."""


class ServingModel(Protocol):
    """One bundle, loaded. Not thread-safe: one per model-server instance."""

    @property
    def dimensions(self) -> Dimensions:
        """Sizes of this bundle's tensors."""

    @property
    def num_items(self) -> int:
        """N, those that were added included, padding not counted."""

    @property
    def items(self) -> ChangingItems:
        """What it keeps of each item; changes go there."""

    def prepare(self, user: UserContext) -> UserContext:
        """Give the context together with what several stages derive from it.

        Every method takes it in place of the plain one and answers the same; a call of two stages
        derives it once.
        """

    def retrieve(
        self, user: UserContext, *, num_candidates: int, exclude_index: Tensor,
        exclude_history: Tensor, filters: Tensor | None = None,
    ) -> Candidates:  # fmt: skip
        """Give the best ``num_candidates`` of all sources that are not excluded.

        ``exclude_index`` ``[B, X]`` int32 (0 pads), ``exclude_history`` ``[B, 1]`` bool,
        ``filters`` ``[B, F, 2]`` int64 pairs of a clause and a token's hash (0 pads; see
        ``filter_tokens.py``). Fewer than ``num_candidates`` come back only when fewer
        exist.
        """

    def score_sources(self, user: UserContext, candidate_index: Tensor) -> Candidates:
        """Give every source's score of given candidates ``[B, C]`` (for ``rank`` of a list)."""

    def rank(self, user: UserContext, candidates: Candidates) -> Ranked:
        """Score candidates."""

    def similar(self, item_index: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
        """Give the ``[B, k]`` nearest other items of ``[B]`` items, and their cosines."""

    def item_vectors(self) -> Tensor:
        """Give ``[N + 1, D]`` vectors of the item tower, row 0 zero."""

"""A request against one bundle: checked, and put into rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from recsys.bundle.served import ServedBundle
from recsys.deadline import Deadline
from recsys.features.batch import Int32s
from recsys.models.filter_tokens import ItemFilter
from recsys.ranking import filters
from recsys.ranking.blending import check_weights
from recsys.ranking.request_rules import Applying, BoundRules, applying, check_rules
from recsys.wire import RecommendRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request against one bundle."""

    request: RecommendRequest
    request_id: str
    bundle: ServedBundle
    bound: BoundRules
    now_ms: int
    deadline: Deadline
    excluded: Int32s
    """Rows left out whoever asks."""
    item_filter: ItemFilter

    @classmethod
    def of(
        cls,
        request: RecommendRequest,
        *,
        request_id: str,
        bundle: ServedBundle,
        bound: BoundRules,
        now_ms: int,
        deadline: Deadline,
    ) -> Asked:
        """Put a request against ``bundle``.

        Raises:
            InputError: when the objective weights do not fit the bundle, or the request's rules
                cannot be meant.
        """
        check_weights(bundle.dimensions.objectives, request.objective_weights)
        check_rules(request)
        wanted = request.filters
        return cls(
            request=request,
            request_id=request_id,
            bundle=bundle,
            bound=bound,
            now_ms=now_ms,
            deadline=deadline,
            excluded=filters.excluded_items(bundle.vocabulary.index_of, request.exclude_item_ids),
            item_filter=ItemFilter.of(
                categories=wanted.categories, exclude_categories=wanted.exclude_categories,
                tags=wanted.tags, exclude_tags=wanted.exclude_tags,
            ),
        )  # fmt: skip

    def rules(self, token_hashes: Iterable[int]) -> Applying:
        """Give the rules that hold for a user of these profile tokens."""
        return applying(
            self.request, self.bundle, self.bound, now_ms=self.now_ms,
            user_tokens=frozenset(token_hashes),
        )  # fmt: skip

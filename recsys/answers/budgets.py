"""How the time of a request is shared out."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.deadline import Deadline


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Budgets of a request."""

    deadline_ms: int = 500
    """For the whole request, where the caller names none. An order of magnitude above the usual
    time: past it, the caller's page has given up, and the fallback is better than a full answer
    nobody waits for."""
    max_deadline_ms: int = 2_000
    """The most a caller may ask for: bounds what waits in this process."""
    rerank_ms: int = 40
    """Kept of it for re-ranking: the model server is not awaited past that. Where it is used up
    all the same, the list goes out without diversity and exploration, and the answer says so."""
    rerank_share: float = 0.08
    """At most this share of a short deadline is kept."""
    features_ms: int = 200
    """Most of it that reading features may take, so that the model keeps a share."""
    features_share: float = 0.4
    """The same as a share, for short deadlines."""

    def deadline(self, wanted_ms: float | None = None, *, waited_s: float = 0.0) -> Deadline:
        """Give the deadline of a request that has waited since it came.

        ``wanted_ms``: what its caller said; ``None``: nothing.
        """
        budget_ms = self.deadline_ms if wanted_ms is None else wanted_ms
        budget_ms = min(budget_ms, self.max_deadline_ms)
        return Deadline.after_ms(budget_ms - waited_s * 1e3)

    def for_features(self, deadline: Deadline) -> Deadline:
        """Give the share of reading features."""
        share_ms = deadline.remaining_s() * 1e3 * self.features_share
        return deadline.within_ms(min(self.features_ms, share_ms))

    def kept_for_reranking_ms(self, total_s: float) -> float:
        """Give what is kept of ``total_s`` for re-ranking."""
        return min(self.rerank_ms, total_s * 1e3 * self.rerank_share)

"""Topics, and which key keeps whose order.

Everything one user does travels in one topic keyed by user, so that a user's profile, impressions,
interactions and feedback arrive in the order they were sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from recsys.events.schema import ItemEvent, LoggedEvent


@dataclass(frozen=True, kw_only=True)
class Topics:
    """Names of the topics of one namespace."""

    namespace: str = "recsys"

    @property
    def items(self) -> str:
        """Item events, keyed by item."""
        return f"{self.namespace}.items"

    @property
    def behaviour(self) -> str:
        """User, impression, interaction and feedback events, keyed by user."""
        return f"{self.namespace}.behaviour"

    @property
    def exposures(self) -> str:
        """What the API answered and why, keyed by user."""
        return f"{self.namespace}.exposures"

    @property
    def dead_letters(self) -> str:
        """Records that could not be read, with the reason."""
        return f"{self.namespace}.dead_letters"

    def all(self) -> tuple[str, ...]:
        """Every topic that must exist before a process starts."""
        return (self.items, self.behaviour, self.exposures, self.dead_letters)

    def route(self, event: LoggedEvent) -> tuple[str, bytes]:
        """Give the topic and key of ``event``."""
        if isinstance(event, ItemEvent):
            return self.items, event.item_id.encode()
        return self.behaviour, event.user_id.encode()

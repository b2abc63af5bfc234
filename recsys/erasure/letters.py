"""What of a user lies among the dead letters, and marking it so that no replay sends it."""

from __future__ import annotations

from recsys.endpoints import Endpoints
from recsys.erasure.proof import Place
from recsys.events.dead_letters import withdraw
from recsys.events.kafka import connect_reader, connect_writer, latest_positions
from recsys.events.topics import Topics
from recsys.settings import Settings


def withdrawn_letters(
    settings: Settings, endpoints: Endpoints, user_id: str, *, dry_run: bool
) -> Place:
    """Mark the user's letters; with ``dry_run`` only count them.

    Raises:
        ServerError: when Kafka does not answer.
    """
    topic = Topics(namespace=settings.namespace).dead_letters
    ends = latest_positions(settings, endpoints, [topic])
    group = f"{settings.namespace}.forget"  # never commits, so it reads from the start
    reader = connect_reader(settings, endpoints, topics=[topic], group=group)
    writer = connect_writer(settings, endpoints)
    try:
        found = withdraw(reader, writer, ends, user_id, dry_run=dry_run)
    finally:
        reader.close()
        writer.close()
    return Place(
        name="dead letters",
        searched=f"{found.num_letters} letters",
        unit="letters",
        num_found=found.num_withdrawn,
        num_removed=0 if dry_run else found.num_withdrawn,
        num_left=found.num_withdrawn if dry_run else 0,
        note="marked, so that no replay sends them; their bytes stay while Kafka keeps them",
    )

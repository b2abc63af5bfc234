"""Which node is sent what: slots, redirections, replicas and second tries, without any socket.

``route`` is a generator: it yields the requests to send at once, one for each node, and is sent
their answers. The blocking and the asyncio client drive it with their own sockets.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.features.redis.address import Address, Node
from recsys.features.redis.commands import NUM_SLOTS, pack, slot_of
from recsys.features.redis.regular_rows import RowShape
from recsys.features.redis.replies import ErrorReply

_ASKING = pack(b"ASKING")
_CLUSTER_SLOTS = pack(b"CLUSTER", b"SLOTS")
_MAX_ROUNDS = 8
"""A slot that moves redirects once, a fail-over a few times."""
_REFRESH_S = 60.0
"""The topology is asked for this often, so that new replicas are used though nothing failed."""
_SILENT_S = 5.0
"""How long a node that did not answer is asked last."""
_LATER = ("TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN")


class Send(NamedTuple):
    """One request to one node."""

    node: Node
    data: bytes
    num_replies: int
    to_replica: bool = False
    """Its connection has said READONLY."""
    pause_s: float = 0.0
    """To wait before it is sent."""
    shapes: tuple[tuple[int, RowShape], ...] = ()
    """How many rows of what shape the replies are, when there is nothing odd among them."""


Answer = list[Any] | Exception
"""The replies to a ``Send``, or why there are none."""
Route = Generator[list[Send], list[Answer], list[Any]]


class Topology:
    """Which node has which slot. Shared by threads; replaced as a whole when it changes."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._turn = itertools.count()
        self._lock = threading.Lock()
        self.nodes: tuple[Node, ...] = address.nodes[:1]
        self.replicas: tuple[tuple[Node, ...], ...] = (address.replicas,)
        self.node_of_slot: npt.NDArray[np.int32] | None = None
        """Index into ``nodes``, -1 where no node serves a slot; ``None`` before it was asked."""
        self._fresh_until = 0.0
        self._silent: dict[Node, float] = {}

    def seeds(self) -> list[Node]:
        """Give the nodes to ask for the topology, those that were silent of late at the end."""
        known = dict.fromkeys((*self.nodes, *self._address.nodes, *sum(self.replicas, ())))
        return sorted(known, key=self._is_silent)

    def _is_silent(self, node: Node) -> bool:
        return self._silent.get(node, 0.0) > time.monotonic()

    @property
    def is_stale(self) -> bool:
        """Whether the cluster should be asked before the next request."""
        return time.monotonic() > self._fresh_until

    def learn(self, reply: list[Any], asked: Node) -> None:
        """Take the answer of ``CLUSTER SLOTS``."""
        nodes: dict[Node, int] = {}
        replicas: dict[int, tuple[Node, ...]] = {}
        node_of_slot = np.full(NUM_SLOTS, -1, dtype=np.int32)
        for first, last, primary, *others in reply:
            index = nodes.setdefault(_node(primary, asked), len(nodes))
            node_of_slot[first : last + 1] = index
            replicas[index] = tuple(_node(other, asked) for other in others)
        with self._lock:
            self.nodes = tuple(nodes) or self._address.nodes[:1]
            self.replicas = tuple(replicas[i] for i in range(len(nodes))) or ((),)
            self.node_of_slot = node_of_slot
            self._fresh_until = time.monotonic() + _REFRESH_S

    def doubt(self, node: Node | None = None) -> None:
        """Ask for the topology again before the next request, ``node`` last: it did not answer."""
        with self._lock:
            self._fresh_until = 0.0
            if node is not None:
                self._silent[node] = time.monotonic() + _SILENT_S

    def by_node(self, keys: Sequence[bytes]) -> dict[int, list[int]]:
        """Give the positions in ``keys`` by index of the node that has them (-1: none does)."""
        if not self._address.is_cluster:
            return {0: list(range(len(keys)))}
        node_of_slot = self.node_of_slot
        if node_of_slot is None:
            return {-1: list(range(len(keys)))}
        groups: dict[int, list[int]] = {}
        for position, index in enumerate(node_of_slot[list(map(slot_of, keys))].tolist()):
            groups.setdefault(index, []).append(position)
        return groups

    def replica(self, index: int) -> Node | None:
        """Give a replica of a node to read from, each in its turn."""
        if not self._address.reads_replicas:
            return None
        replicas = [node for node in self.replicas[index] if not self._is_silent(node)]
        return replicas[next(self._turn) % len(replicas)] if replicas else None


def _node(entry: list[Any], asked: Node) -> Node:
    host = entry[0].decode() if entry[0] else asked.host  # a node may not know its own name
    return Node(host, entry[1])


def discover(topology: Topology) -> Route:
    """Ask the nodes of a cluster, one after the other, which slots they have."""
    problem: Exception | None = None
    for seed in topology.seeds():
        (answer,) = yield [Send(seed, _CLUSTER_SLOTS, 1)]
        if isinstance(answer, list) and isinstance(answer[0], list):
            topology.learn(answer[0], seed)
            return []
        problem = answer if isinstance(answer, Exception) else answer[0]
        topology.doubt(seed)
    raise problem if problem is not None else ConnectionError("no node of the cluster is known")


def route_all(
    topology: Topology,
    data: bytes,
    count: int,
    *,
    read_only: bool,
    shapes: tuple[tuple[int, RowShape], ...] = (),
) -> Route:
    """Send ``count`` commands to the one server there is; its replica when reads may go there."""
    node = topology.nodes[0]
    replica = topology.replica(0) if read_only else None
    if replica is not None:
        (answer,) = yield [Send(replica, data, count, shapes=shapes)]
        if isinstance(answer, list) and not _any_later(answer):
            return answer
        topology.doubt(replica)
        if isinstance(answer, TimeoutError):
            raise answer
    (answer,) = yield [Send(node, data, count, shapes=shapes)]
    if isinstance(answer, Exception):
        raise answer
    return answer


def _any_later(answer: list[Any]) -> bool:
    return any(type(reply) is ErrorReply and reply.code in _LATER for reply in answer)


def route(
    topology: Topology, keys: Sequence[bytes], commands: Sequence[bytes], *, read_only: bool
) -> Route:
    """Send each command to the node of its key in a cluster; one request for each node.

    Gives the replies in the order of ``commands``. A command whose slot has moved follows it; one
    whose node is gone is sent again once the cluster says who took over.

    Raises:
        ErrorReply: the cluster does not settle.
        OSError: a node cannot be reached and nobody took over.
    """
    replies: list[Any] = [None] * len(commands)
    left = list(range(len(commands)))
    asked: dict[int, Node] = {}
    problem: Exception = ConnectionError("the cluster has no node for a slot")
    replicas = read_only
    for attempt in range(_MAX_ROUNDS):
        if topology.is_stale:
            yield from discover(topology)
        sends, positions = _sends(topology, keys, commands, left, asked, replicas=replicas)
        pause_s = 0.02 * 2**attempt if attempt > 1 else 0.0
        answers = yield [send._replace(pause_s=pause_s) for send in sends]
        known = set(itertools.chain.from_iterable(positions))
        left, asked = [position for position in left if position not in known], {}
        for send, answer, sent in zip(sends, answers, positions, strict=True):
            if isinstance(answer, Exception):
                left += sent
                problem, replicas = answer, False
                topology.doubt(send.node)
                continue
            # An ASKING stands before each command that was redirected: its "OK" is no reply.
            found = answer if len(answer) == len(sent) else answer[1::2]
            for position, reply in zip(sent, found, strict=True):
                if type(reply) is ErrorReply and (retry := _redirection(reply, send.node)):
                    left.append(position)
                    problem = reply
                    if retry.code == "ASK":
                        asked[position] = retry.node
                    else:
                        topology.doubt()
                        replicas = False
                else:
                    replies[position] = reply
        if not left:
            return replies
        if isinstance(problem, TimeoutError):
            break  # the caller's time is up
    raise problem


def _sends(
    topology: Topology,
    keys: Sequence[bytes],
    commands: Sequence[bytes],
    left: list[int],
    asked: dict[int, Node],
    *,
    replicas: bool,
) -> tuple[list[Send], list[list[int]]]:
    sends, positions = [], []
    plain = [position for position in left if position not in asked]
    for index, group in topology.by_node([keys[position] for position in plain]).items():
        if index < 0:
            continue
        members = [plain[place] for place in group]
        replica = topology.replica(index) if replicas else None
        data = b"".join([commands[position] for position in members])
        sends.append(
            Send(replica or topology.nodes[index], data, len(members), replica is not None)
        )
        positions.append(members)
    for node in set(asked.values()):
        members = [position for position in left if asked.get(position) == node]
        data = b"".join([_ASKING + commands[position] for position in members])
        sends.append(Send(node, data, 2 * len(members)))
        positions.append(members)
    return sends, positions


class _Redirection(NamedTuple):
    code: str
    node: Node


def _redirection(reply: ErrorReply, answered: Node) -> _Redirection | None:
    """Say where a refused command should go; ``None`` when its refusal is final."""
    if reply.code in _LATER:
        return _Redirection("LATER", answered)
    if reply.code not in ("MOVED", "ASK"):
        return None
    host, _, port = str(reply).split(" ")[2].rpartition(":")
    return _Redirection(reply.code, Node(host.strip("[]") or answered.host, int(port)))

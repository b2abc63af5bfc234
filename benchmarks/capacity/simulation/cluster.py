"""The cluster as a simulation: machines, processes, balancers, callers, and what fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.capacity.simulation.api_process import ApiProcess
from benchmarks.capacity.simulation.balancing import Balancer
from benchmarks.capacity.simulation.callers import Callers
from benchmarks.capacity.simulation.cores import Background, Machine, Thread
from benchmarks.capacity.simulation.draws import Dispersion, Draws
from benchmarks.capacity.simulation.events import Events
from benchmarks.capacity.simulation.outcomes import Outcomes
from benchmarks.capacity.simulation.profile import Load, Profile
from benchmarks.capacity.simulation.servers import ModelServer, Server
from benchmarks.capacity.simulation.shape import Failure, RandomFailures, Shape
from recsys.errors import InputError

_SAMPLE_S = 1.0
_SPEED_S = 0.25


@dataclass(frozen=True)
class Node:
    """What dies together: one machine's processes, or one process where all share a machine."""

    name: str
    apis: tuple[ApiProcess, ...] = ()
    model: ModelServer | None = None
    store: Server | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it has not died, or is back."""
        if self.apis:
            return self.apis[0].is_alive
        server = self.model or self.store
        return server is not None and server.is_alive


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Core seconds used so far, by part, and what waits."""

    at_s: float
    cores_s: dict[str, float]
    waiting: int
    """Requests that are not answered."""
    limit: float
    """Of admission, on average over the API processes that live."""


class Cluster:
    """Built from a profile and a shape; ``run`` sends it requests."""

    def __init__(self, profile: Profile, shape: Shape, *, seed: int) -> None:
        self.events = events = Events()
        self.outcomes = Outcomes()
        self.samples: list[Sample] = []
        self.failures: list[tuple[float, str, bool]] = []
        """When which node died (false) or came back (true)."""
        self._profile, self._shape = profile, shape
        self._rng = np.random.default_rng(seed)
        caller_draws = Draws(self._stream())
        cores = shape.cores or profile.cores
        network_s = profile.hop_s if shape.network_s is None else shape.network_s
        self._network_s = profile.hop_s if shape.one_machine else network_s
        one = self._machine(cores) if shape.one_machine else None
        self.machines: dict[str, list[Machine]] = {}

        def machines(part: str, count: int) -> list[Machine]:
            found = [one or self._machine(cores) for _ in range(count)]
            self.machines[part] = found[:1] if one else found
            return found

        self._generator = Thread(one) if one is not None and profile.generator_s else None
        self.log = Server("log-1", machines("log", 1)[0], profile.log, network_s=self._network_s)
        self.stores = [
            Server(f"redis-{n + 1}", machine, profile.redis, network_s=self._network_s)
            for n, machine in enumerate(machines("redis", shape.stores))
        ]
        self.models = [
            ModelServer(
                f"model-{n + 1}", machine, profile.model, network_s=self._network_s,
                dispersion=Dispersion(Draws(self._stream()), profile.model.dispersion),
                instances=shape.instances, max_batch_size=shape.max_batch_size,
            )
            for n, machine in enumerate(machines("model", shape.model_servers))
        ]  # fmt: skip
        per_machine = 1 if shape.one_machine else shape.api_per_machine
        on = machines("api", -(-shape.api // per_machine))
        model_draws, store_draws = Draws(self._stream()), Draws(self._stream())

        api_draws = Draws(self._stream())

        def balancer(targets: Sequence[Any], draws: Draws) -> Balancer[Any]:
            return Balancer(
                targets, events, draws, policy=shape.model_policy,
                detect_s=shape.detect_s, return_s=shape.return_s,
            )  # fmt: skip

        # Each API process has its own connections, so it goes round by itself.
        self._model_balancers = [balancer(self.models, model_draws) for _ in range(shape.api)]
        self._store_balancers = [balancer(self.stores, store_draws) for _ in range(shape.api)]
        self.apis = [
            ApiProcess(
                f"process-{n + 1}", on[n // per_machine], profile.api,
                stores=self._store_balancers[n], models=self._model_balancers[n],
                log=self._log, network_s=self._network_s, target_ms=shape.target_ms,
                budgets=shape.budgets,
                dispersion=Dispersion(api_draws, profile.api.dispersion),
            )
            for n in range(shape.api)
        ]  # fmt: skip
        self.callers = Callers(
            events, self.outcomes, self.apis, caller_draws, shape, network_s=self._network_s,
            generator=self._generator, generator_s=profile.generator_s,
        )  # fmt: skip
        self.nodes = self._nodes(per_machine)
        self._background()

    def fail(self, failures: Sequence[Failure]) -> None:
        """Let nodes die at given moments. Raises InputError for one that there is not."""
        for failure in failures:
            if failure.node not in self.nodes:
                raise InputError(
                    f"--fail-node: wanted one of {', '.join(self.nodes)}, found {failure.node!r}"
                )
            self.events.at(failure.at_s, self._die, failure)

    def fail_at_random(self, random: RandomFailures) -> None:
        """Let every node die and come back at random."""
        draws = Draws(self._stream())

        def die(name: str) -> None:
            lasts_s = draws.exponential(random.mttr_s)
            now_s = self.events.now_s
            self._die(Failure(at_s=now_s, lasts_s=lasts_s, node=name))
            self.events.after(lasts_s + draws.exponential(random.mtbf_s), die, name)

        for name in self.nodes:
            self.events.at(draws.exponential(random.mtbf_s), die, name)

    def run(
        self,
        due_s: NDArray[np.float64],
        until_s: float,
        look: Callable[[float], None] | None = None,
    ) -> None:
        """Send requests at rising moments and go on until ``until_s``; see ``Events.run``."""
        self.callers.send(due_s)
        self.events.at(0.0, self._sample)
        self.events.run(until_s, look)

    # What fails.

    def _die(self, failure: Failure) -> None:
        node = self.nodes[failure.node]
        if not node.is_alive:
            return
        self.failures.append((self.events.now_s, node.name, False))
        for api in node.apis:
            cut = api.kill(silently=failure.silently)
            self.callers.lost(api, cut, silently=failure.silently)
        if node.model is not None:
            node.model.kill(silently=failure.silently)
            for models in self._model_balancers:
                models.died(node.model)
        if node.store is not None:
            node.store.kill(silently=failure.silently)
            for stores in self._store_balancers:
                stores.died(node.store)
        self.events.after(failure.lasts_s, self._return, node)

    def _return(self, node: Node) -> None:
        self.failures.append((self.events.now_s, node.name, True))
        for api in node.apis:
            api.revive()
            self.callers.revived(api)
        if node.model is not None:
            node.model.revive()
            for models in self._model_balancers:
                models.revived(node.model)
        if node.store is not None:
            node.store.revive()
            for stores in self._store_balancers:
                stores.revived(node.store)

    # How it is put together.

    def _nodes(self, per_machine: int) -> dict[str, Node]:
        found = []
        for n in range(0, len(self.apis), per_machine):
            apis = tuple(self.apis[n : n + per_machine])
            found.append(Node(f"api-{n // per_machine + 1}", apis=apis))
        found += [Node(model.name, model=model) for model in self.models]
        found += [Node(store.name, store=store) for store in self.stores]
        return {node.name: node for node in found}

    def _machine(self, cores: int) -> Machine:
        machine = Machine(self.events, cores, together=self._profile.together)
        if speeds := self._profile.speeds:
            self._pace(machine, int(self._stream().integers(len(speeds))))
        return machine

    def _pace(self, machine: Machine, place: int) -> None:
        """Let a machine be as fast as was measured, moment by moment, over and over."""
        speeds = self._profile.speeds
        machine.set_speed(speeds[place % len(speeds)])
        self.events.after(_SPEED_S, lambda _: self._pace(machine, place + 1))

    def _stream(self) -> np.random.Generator:
        """Give a stream of its own, so that one part's draws do not change another's."""
        return self._rng.spawn(1)[0]

    def _background(self) -> None:
        """Start what runs beside the requests: in the threads of the API and the model, or beside
        them in threads of its own, which die with no node."""
        self._loads: list[Thread] = []
        shared = self.machines["api"] if self._shape.one_machine else []
        beside = {**self.machines, "machine": shared}
        inside = {
            "api": [api.thread for api in self.apis],
            "model": [thread for model in self.models for thread in model.instances],
        }
        for load in self._profile.background:
            if load.where in inside:
                threads = inside[load.where]
            elif load.where in beside:
                threads = [Thread(machine) for machine in beside[load.where]]
                self._loads += threads
            else:
                raise InputError(
                    f"profile, background {load.name!r}: wanted where to be one of "
                    f"{', '.join(beside)}, found {load.where!r}"
                )
            for thread in threads:
                self._bursts(thread, load)

    def _bursts(self, thread: Thread, load: Load) -> None:
        draws, mean_s = Draws(self._stream()), load.cores * load.every_s
        Background(
            thread, self.events, every_s=load.every_s,
            work_s=lambda: draws.exponential(mean_s),
            pause_s=lambda: draws.exponential(load.every_s),
        )  # fmt: skip

    def _log(self, exposures: int) -> None:
        self.log.thread.do(self._profile.log.work(exposures), _nothing)

    def _sample(self, _: object) -> None:
        parts = {
            "api": [api.thread for api in self.apis],
            "model front": [model.thread for model in self.models],
            "model": [thread for model in self.models for thread in model.instances],
            "redis": [store.thread for store in self.stores],
            "log": [self.log.thread],
            "background": self._loads,
            "generator": [self._generator] if self._generator else [],
        }
        limits = [api.limit for api in self.apis if api.is_alive]
        self.samples.append(
            Sample(
                at_s=self.events.now_s,
                cores_s={
                    name: sum(thread.core_s for thread in threads)
                    for name, threads in parts.items()
                    if threads
                },
                waiting=self.callers.num_open,
                limit=sum(limits) / len(limits) if limits else 0.0,
            )
        )
        self.events.after(_SAMPLE_S, self._sample)


def _nothing(_: object) -> None:
    pass

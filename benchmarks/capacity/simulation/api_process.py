"""An API process: one event loop, and all that decides about a request in it.

::

    head ─► admission ─► receive ─► reads gathered ─► Redis ─► decode ─┐
             └► refused, from memory                                   ▼
    finish ◄─ reply ◄─ model server ◄─ calls gathered, one at a time ──┘

Admission, circuit breakers and budgets are the classes that run in the real process, given the
simulation's clock; gathering and hedging are their rules without asyncio, with the same settings.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.capacity.simulation.api_stage import Stage, Together, Visit
from benchmarks.capacity.simulation.balancing import Balancer
from benchmarks.capacity.simulation.cores import Machine, Thread
from benchmarks.capacity.simulation.outcomes import REFUSED
from benchmarks.capacity.simulation.profile import ApiCosts
from benchmarks.capacity.simulation.servers import ModelServer, Server
from recsys.answers.budgets import PipelineConfig
from recsys.inference.live import COMPUTING, MODEL_BREAKER, READING, STORE_BREAKER
from recsys.resilience.admission import Admission, AdmissionConfig
from recsys.resilience.breaker import CircuitBreaker
from recsys.resilience.hedge_rule import HedgeRule

_LAG_TICK_S = 0.02
"""How often the event loop's lag is looked at while requests come (``serving/api/overload.py``)."""
_LINGER_S = 0.2
"""Between two writings of exposures (``serving/api/exposure_log.py``)."""
_SLICE_S = 0.005
"""What a thread holds the interpreter for at most while another wants it: writing exposures."""


class ApiProcess:
    """One process. Its machine's cores are shared with whoever else is on it."""

    def __init__(
        self,
        name: str,
        machine: Machine,
        costs: ApiCosts,
        *,
        stores: Balancer[Server],
        models: Balancer[ModelServer],
        log: Callable[[int], None],
        network_s: float,
        target_ms: float,
        budgets: PipelineConfig,
        dispersion: Callable[[], float],
    ) -> None:
        """``log`` is told of so many exposures; ``network_s`` is the way to a server and back."""
        self.name = name
        self.thread = Thread(machine, cold=costs.warmth.cold, cooling_s=costs.warmth.cooling_s)
        self._events = machine.events
        self._costs = costs
        self._stores, self._models, self._log = stores, models, log
        self._network_s = network_s
        self._target_ms = target_ms
        self._budgets = budgets
        self._dispersion = dispersion
        self._visits: dict[Visit, None] = {}
        """In the order they came: a set's order is another in every run."""
        self.model_calls: dict[int, int] = {}
        """How many calls of the model server there were, by users in them."""
        self.hedged = 0
        self.stages_s = {"features": 0.0, "recommend": 0.0}
        """Time that requests were in each stage, as ``Server-Timing`` counts it, summed up."""
        self._refuses = True
        self._begin_anew()

    @property
    def waiting(self) -> int:
        """Requests it has not answered."""
        return len(self._visits)

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return self.thread.is_alive

    @property
    def refuses(self) -> bool:
        """Whether a connection to it is refused at once; of a dead one."""
        return self._refuses

    @property
    def limit(self) -> float:
        """Of requests at work."""
        return self._admission.limit if self._admission else float("inf")

    def take(self, visit: Visit) -> None:
        """Take a request that has just arrived; the process is alive."""
        self._visits[visit] = None
        self.thread.do(self._costs.head_s, self._decide, visit, 1)

    def kill(self, *, silently: bool) -> list[Visit]:
        """Let it die; gives the requests it was at."""
        cut, self._visits = list(self._visits), {}
        self._refuses = not silently
        self.thread.kill()
        self._life += 1
        self._reading.end()
        self._computing.end()
        return cut

    def revive(self) -> None:
        """Let it begin anew."""
        self.thread.revive()
        self._begin_anew()

    def _begin_anew(self) -> None:
        def clock_s() -> float:
            return self._events.now_s

        self._life: int = getattr(self, "_life", 0) + 1
        """Timers of an earlier life do nothing."""
        config = AdmissionConfig(target_ms=self._target_ms)
        self._admission = Admission(config, clock_s=clock_s) if self._target_ms else None
        self._hedging = HedgeRule()
        self._reading = Stage(
            self._events, CircuitBreaker("redis", STORE_BREAKER, clock_s=clock_s), READING,
            send=self._read, give_up=self._remember,
        )  # fmt: skip
        self._computing = Stage(
            self._events, CircuitBreaker("triton", MODEL_BREAKER, clock_s=clock_s), COMPUTING,
            send=self._call, give_up=self._remember,
        )  # fmt: skip
        self._lag_s = 0.0
        self._is_timed = self._has_come = False
        self._exposures = 0

    # What decides about a request.

    def _decide(self, visit: Visit) -> None:
        now_s = self._events.now_s
        visit.began_s = now_s
        self._has_come = True
        if not self._is_timed:
            self._lag_s = 0.0
            self._look_again()
        if self._admission is not None:
            verdict = self._admission.enter()
            if verdict == "refused":
                self._answer(visit, REFUSED)
                return
            if verdict == "memory":
                self.thread.do(
                    self._costs.receive_s + self._costs.memory_s, self._from_memory_done, visit
                )
                return
        self.thread.do(self._costs.receive_s, self._received, visit, 2)

    def _look_again(self) -> None:
        self._is_timed = True
        self._events.after(_LAG_TICK_S, self._tick, (self._life, self._events.now_s + _LAG_TICK_S))

    def _tick(self, what: tuple[int, float]) -> None:
        if what[0] == self._life:
            self.thread.do(0.0, self._looked, what[1])

    def _looked(self, due_s: float) -> None:
        late_s = self._events.now_s - due_s
        self._lag_s += 0.5 * ((late_s if late_s > 0.0 else 0.0) - self._lag_s)
        self._is_timed = False
        if self._has_come:
            self._has_come = False
            self._look_again()

    # Reading features.

    def _received(self, visit: Visit) -> None:
        if self._reading.refuses():
            self._remember(visit)
            return
        now_s, budgets = self._events.now_s, self._budgets
        left_ms = budgets.deadline_ms - (now_s - visit.began_s) * 1e3
        share_ms = min(budgets.features_ms, left_ms * budgets.features_share)
        self._reading.enter(visit, now_s + share_ms / 1e3)

    def _read(self, visits: list[Visit]) -> None:
        batch = Together(visits, max(visit.stage_end_s for visit in visits))
        self.thread.do(self._costs.read(batch.users), self._ask_store, batch, 3)

    def _ask_store(self, batch: Together) -> None:
        batch.begun_s = self._events.now_s
        store = self._stores.choose()
        if store is None:
            self._reading.failed(batch)
            return
        self._reading.asked(batch)
        delay_s = self._hedging.begins()
        self._events.after(self._network_s, self._arrive_store, (self._life, store, batch))
        if delay_s is not None:
            self._events.after(delay_s, self._hedge, (self._life, store, batch))

    def _arrive_store(self, what: tuple[int, Server, Together]) -> None:
        life, store, batch = what
        store.ask(batch, lambda answered, ok: self._store_replied(life, answered, ok))

    def _hedge(self, what: tuple[int, Server, Together]) -> None:
        life, store, batch = what
        if life != self._life or not batch.is_open or not self._hedging.may_send():
            return
        other = self._stores.choose(but=store)
        if other is not None:
            self.hedged += 1
            self.thread.do(
                self._costs.read(batch.users),
                lambda _: self._events.after(
                    self._network_s, self._arrive_store, (life, other, batch)
                ),
            )

    def _store_replied(self, life: int, batch: Together, is_answered: bool) -> None:
        self._events.after(self._network_s, self._store_heard, (life, batch, is_answered))

    def _store_heard(self, what: tuple[int, Together, bool]) -> None:
        life, batch, is_answered = what
        if life != self._life or not batch.is_open:
            return
        if not is_answered:
            self._reading.failed(batch)
            return
        self._hedging.took(self._events.now_s - batch.begun_s)
        batch.is_open = False
        self.thread.do(
            self._costs.decode(batch.users) * self._dispersion(), self._decoded, batch, 4
        )

    def _decoded(self, batch: Together) -> None:
        self._reading.answered(batch)
        self._reading.freed()
        reserve_s = (
            min(self._budgets.rerank_ms, self._budgets.deadline_ms * self._budgets.rerank_share)
            / 1e3
        )
        for visit in batch.visits:
            if visit.stage is not self._reading:
                continue
            self.stages_s["features"] += self._events.now_s - visit.entered_s
            if self._computing.refuses():
                self._remember(visit)
                continue
            end_s = visit.began_s + self._budgets.deadline_ms / 1e3 - reserve_s
            self._computing.enter(visit, end_s)

    # The model server.

    def _call(self, visits: list[Visit]) -> None:
        ends = sorted(visit.stage_end_s for visit in visits)
        batch = Together(visits, ends[(len(ends) - 1) // 2])
        self.model_calls[batch.users] = self.model_calls.get(batch.users, 0) + 1
        self.thread.do(self._costs.call(batch.users), self._ask_model, batch, 5)

    def _ask_model(self, batch: Together) -> None:
        batch.begun_s = self._events.now_s
        server = self._models.choose()
        if server is None:
            self._computing.failed(batch)
            return
        self._computing.asked(batch)
        life = self._life
        self._events.after(
            self._network_s,
            lambda _: server.ask(
                batch, lambda answered, ok: self._model_replied(life, answered, ok)
            ),
        )

    def _model_replied(self, life: int, batch: Together, is_answered: bool) -> None:
        self._events.after(self._network_s, self._model_heard, (life, batch, is_answered))

    def _model_heard(self, what: tuple[int, Together, bool]) -> None:
        life, batch, is_answered = what
        if life != self._life or not batch.is_open:
            return
        if not is_answered:
            self._computing.failed(batch)
            return
        batch.is_open = False
        self.thread.do(
            self._costs.reply(batch.users) * self._dispersion(), self._computed, batch, 6
        )

    def _computed(self, batch: Together) -> None:
        self._computing.answered(batch)
        label = "200 full" if batch.is_ranked else "200 retrieval"
        for visit in batch.visits:
            if visit.stage is self._computing:
                self.stages_s["recommend"] += self._events.now_s - visit.entered_s
                visit.stage = None
                visit.label = label
                self.thread.do(self._costs.finish_s, self._finished, visit, 7)
        self._computing.freed()

    def _finished(self, visit: Visit) -> None:
        if self._admission is not None:
            self._admission.leave(self._events.now_s - visit.began_s + self._lag_s)
        self._expose()
        self._answer(visit, visit.label)

    # What is answered from memory.

    def _remember(self, visit: Visit) -> None:
        """Answer from memory: it holds its place until it is done."""
        visit.stage = None
        self.thread.do(self._costs.memory_s, self._remembered, visit, 8)

    def _remembered(self, visit: Visit) -> None:
        if self._admission is not None:
            self._admission.leave(self._events.now_s - visit.began_s + self._lag_s)
        self._from_memory_done(visit)

    def _from_memory_done(self, visit: Visit) -> None:
        self._expose()
        self._answer(visit, "200 similar")

    def _answer(self, visit: Visit, label: str) -> None:
        if visit in self._visits:
            del self._visits[visit]
            visit.answered(visit, label)

    def _expose(self) -> None:
        self._exposures += 1
        if self._exposures == 1:
            self._events.after(_LINGER_S, self._write_exposures, self._life)

    def _write_exposures(self, life: int) -> None:
        if life != self._life:
            return
        count, self._exposures = self._exposures, 0
        self._log(count)
        work_s = count * self._costs.exposure_s
        while work_s > 0.0:
            self.thread.do(min(work_s, _SLICE_S), _nothing, None, 9)
            work_s -= _SLICE_S


def _nothing(_: object) -> None:
    pass

"""What holds a step back: named from what was seen, or not named.

Looked for in this order, since the earlier explains the later: the generator, the machine's cores,
one thread at a full core, the service turning requests away or lowering its answers, a stage in
which requests wait, a queue that grows unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from benchmarks.loadtest.observer import Machine
from benchmarks.loadtest.result import Process, Saturation, Step

GENERATOR = "load generator"
"""The generator's own part among the observed processes."""
_FULL_CORE = 0.9
_MACHINE_BUSY = 0.95
_SHARE = 0.001
_SLOWER, _SLOWER_MS = 2.0, 20.0
_STAGE_SHARE = 0.6
_REFUSALS = ("429", "503", "grpc UNAVAILABLE", "grpc RESOURCE_EXHAUSTED")


def saturation(step: Step, processes: Mapping[str, Process], machine: Machine) -> Saturation | None:
    """Give the cause and its evidence; ``None`` when nothing holds the step back."""
    evidence = _evidence(step)
    if step.is_late:
        late = f"sent {step.generator_late_p99_ms:.1f} ms late at the 99th percentile"
        return Saturation(cause="the load generator itself", evidence=[late, *_busy(step, machine)])
    if not (evidence or step.missed or step.given_up):
        return None
    if machine.busy >= _MACHINE_BUSY:
        users = sorted(processes.items(), key=lambda one: -one[1].cores)
        told = ", ".join(f"{name} {one.cores:.2f}" for name, one in users[:4])
        busy = f"{100 * machine.busy:.0f} % of {machine.cores} cores busy"
        stolen = (
            [f"{100 * machine.stolen:.0f} % taken by other guests of the host"]
            if machine.stolen >= 0.02 else []
        )  # fmt: skip
        return Saturation(
            cause="the machine's cores",
            evidence=[f"{busy} ({told})" if told else busy, *stolen, *evidence],
        )
    others = {name: one for name, one in processes.items() if name != GENERATOR}
    name, hottest = max(others.items(), key=lambda one: one[1].busiest_thread, default=("", None))
    if hottest is not None and hottest.busiest_thread >= _FULL_CORE:
        used = f"its busiest thread used {hottest.busiest_thread:.2f} of a core"
        return Saturation(cause=f"one thread of {name}", evidence=[used, *evidence])
    refused = sum(step.answers.get(label, 0) for label in _REFUSALS)
    if refused > _SHARE * step.sent or step.degraded > _SHARE:
        return Saturation(cause="the service's own admission or deadlines", evidence=evidence)
    stage = max(step.stages.items(), key=lambda one: one[1].mean_ms, default=None)
    whole = step.latency_ms.get("mean", 0.0)
    if stage is not None and whole and stage[1].mean_ms >= _STAGE_SHARE * whole:
        took = f"{stage[1].mean_ms:.1f} of {whole:.1f} ms on average"
        return Saturation(cause=f"the stage {stage[0]}", evidence=[took, *evidence])
    unseen = [] if others else ["no process was observed: --state or --pid shows who is busy"]
    return Saturation(
        cause="a queue or a bound that was not seen",
        evidence=[*(evidence or step.missed), *unseen],
    )


def _evidence(step: Step) -> list[str]:
    said = []
    refused = {label: step.answers[label] for label in _REFUSALS if step.answers.get(label)}
    if sum(refused.values()) > _SHARE * step.sent:
        said.append(
            "refused: " + ", ".join(f"{count} with {label}" for label, count in refused.items())
        )
    failed = step.errors - sum(refused.values()) / max(step.sent, 1)
    if failed > _SHARE:
        said.append(f"{100 * failed:.2f} % without an answer, or with an error")
    if step.degraded > _SHARE:
        said.append(f"{100 * step.degraded:.1f} % answered from a lower rung")
    if step.given_up:
        said.append(f"{step.unanswered_at_end} requests waited at the end")
    elif _grows(step):
        said.append("latency grows through the step: more arrives than is answered")
    return said


def _grows(step: Step) -> bool:
    third = len(step.seconds) // 3
    if not third:
        return False
    first, last = (
        median(second.p50_ms for second in part)
        for part in (step.seconds[:third], step.seconds[-third:])
    )
    return last > _SLOWER * first and last - first > _SLOWER_MS


def _busy(step: Step, machine: Machine) -> list[str]:
    said = [f"{100 * machine.busy:.0f} % of {machine.cores} cores busy"]
    if max(step.generator_cores, default=0.0) >= _FULL_CORE:
        said.append(f"a sender used {max(step.generator_cores):.2f} of a core: more --processes")
    return said

"""The loop on a small model: resumed within an epoch, stopped early, states kept and checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recsys.errors import ConfigurationError
from training import loop
from training.checkpoint_files import STATE_FILE, FolderCheckpoints
from training.engine import Engine
from training.loop import Checkpoints, NoCheckpoints, Phase, Run, State
from training.world import World


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer, self.dropout, self.head = nn.Linear(8, 16), nn.Dropout(0.2), nn.Linear(16, 1)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.head(self.dropout(self.layer(rows).relu())).squeeze(1)
        return out


def phase(model: nn.Module, *, epochs: int = 3, size: int = 8) -> Phase:
    data = torch.randn(120, 8, generator=torch.Generator().manual_seed(1))

    def batches(generator: torch.Generator) -> list[Tensor]:
        return list(torch.randperm(120, generator=generator).split(size))

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.rand(len(rows), generator=generator) * 0.01
        return ((model(data[rows]) - data[rows, 0] - noise) ** 2).mean()

    return Phase(
        name="small", module=model, batches=batches, loss=loss, epochs=epochs, learning_rate=0.01,
        weight_decay=0.0,
    )  # fmt: skip


def trained(
    engine: Engine, checkpoints: Checkpoints | None = None, **of: int
) -> tuple[_Model, Run]:
    model = _Model()
    run = Run(
        seed=1, world=World(), checkpoints=checkpoints or NoCheckpoints(), engine=engine
    )  # fmt: skip
    run.train(phase(model, **of))
    return model, run


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


class _StopError(Exception):
    """Stands for a killed process."""


class _Dies(FolderCheckpoints):
    left = 0

    def save(self, state: State, metrics: dict[str, float]) -> None:
        super().save(state, metrics)
        self.left -= 1
        if self.left == 0:
            raise _StopError


@pytest.mark.parametrize("saves", [1, 2, 4, 6])
def test_a_run_goes_on_from_the_middle_of_an_epoch(tmp_path: Path, monkeypatch, saves) -> None:
    monkeypatch.setattr(loop, "_LOOK_AT_CLOCK_EVERY", 4)
    engine = Engine(checkpoint_every_s=0.0, accumulate_batches=2)
    whole, run = trained(engine)
    dying = _Dies(tmp_path)
    dying.left = saves
    with pytest.raises(_StopError):
        trained(engine, dying)
    resumed, rerun = trained(engine, FolderCheckpoints(tmp_path))
    assert same(whole, resumed) and run.curve == rerun.curve


def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(tmp_path: Path, caplog) -> None:
    whole, run = trained(Engine())
    dying = _Dies(tmp_path)
    dying.left = 2
    with pytest.raises(_StopError):
        trained(Engine(), dying)
    kept = sorted(p.name for p in tmp_path.iterdir())
    assert kept == ["0000000", "0000001"]
    with (tmp_path / "0000001" / STATE_FILE).open("r+b") as file:
        file.seek(100)
        file.write(b"\0\1\2")
    resumed, rerun = trained(Engine(), FolderCheckpoints(tmp_path))
    assert "checkpoint damaged" in caplog.text and "an earlier checkpoint is used" in caplog.text
    assert same(whole, resumed) and run.curve == rerun.curve
    assert len(list(tmp_path.iterdir())) == 2  # the last two are kept


def test_a_phase_stops_when_it_gets_no_better_and_keeps_its_best_epoch() -> None:
    said = iter([3.0, 1.0, 2.0, 5.0, 0.0])
    seen: list[dict[str, Tensor]] = []
    model = _Model()

    def validate() -> float:
        seen.append({n: v.clone() for n, v in model.state_dict().items()})
        return next(said)

    run = Run(
        seed=1, world=World(), checkpoints=NoCheckpoints(), engine=Engine(patience=2)
    )  # fmt: skip
    run.train(replace(phase(model, epochs=5), validate=validate))
    assert len(seen) == 4  # two epochs without a better one after the second
    assert all(torch.equal(v, seen[1][n]) for n, v in model.state_dict().items())


def test_gradients_of_two_batches_are_those_of_one_twice_as_large() -> None:
    class Still(_Model):
        def forward(self, rows: Tensor) -> Tensor:
            out: Tensor = self.layer(rows).sum(dim=1)
            return out

    def ended(engine: Engine, size: int) -> nn.Module:
        model = Still()
        steps = phase(model, epochs=1, size=size)

        def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
            return model(torch.ones(len(rows), 8) * rows.unsqueeze(1)).square().mean()

        run = Run(seed=1, world=World(), checkpoints=NoCheckpoints(), engine=engine)
        run.train(replace(steps, loss=loss))
        return model

    halves, whole = ended(Engine(accumulate_batches=2), 15), ended(Engine(), 30)
    for a, b in zip(halves.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_bf16_loses_little() -> None:
    _, exact = trained(Engine(), epochs=4)
    _, short = trained(Engine(precision="bfloat16"), epochs=4)
    for (_, _, a), (_, _, b) in zip(exact.curve, short.curve, strict=True):
        assert b == pytest.approx(a, rel=0.03)
    assert exact.curve[-1][2] < 0.8 * exact.curve[0][2]
    assert exact.curve != short.curve


def test_options_that_do_not_go_together_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(4, 2))
    run = Run(
        seed=1, world=World(), checkpoints=NoCheckpoints(),
        engine=Engine(sparse_tables=True, clip_norm=1.0),
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="cannot go together"):
        run.train(phase(model))

"""Runs ``fit`` on Ray Train's workers, with checkpoints it can resume.

Without ``RAY_ADDRESS`` it runs on a small local Ray (``ray_start.py``). With one, the same job runs
on that cluster; its storage folder must then be one that all nodes share.

What a run prepared goes to the workers as one file. Each epoch leaves a checkpoint with a checksum;
a worker that is killed is started again by Ray, and a driver that is killed finds the run by its
name (a hash of what it learns from) when the same command is given again.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from recsys.errors import ConfigurationError
from training.checkpoint_files import KEPT
from training.fit import Fitted, Output, fit, fit_step
from training.loop import World
from training.prepared import Prepared
from training.ray_checkpoints import RayCheckpoints, begin_run
from training.ray_start import started
from training.run_identity import identity_of

_FITTED_FILE, _GIVEN_FILE, _PROGRESS_FILE = "fitted.pt", "given.pt", "progress.jsonl"
_RUN_FOLDER = "train"
"""Ray's own of the run: checkpoints."""
_RECORD_FIELDS = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
logger = logging.getLogger(__name__)

EpochReport = Callable[[str, int, int, float], None]


def fit_on_ray(
    prepared: Prepared,
    *,
    storage: Path,
    address: str | None,
    num_workers: int,
    use_gpu: bool,
    on_epoch: EpochReport,
) -> tuple[Fitted, str]:
    """Fit on ``num_workers`` workers and give the result with the kind of device it ran on.

    Args:
        prepared: What to learn from.
        storage: Folder for the run's files and checkpoints; removed after success.
        address: Ray cluster; None starts a local Ray.
        num_workers: Data-parallel workers.
        use_gpu: One CUDA device for each worker.
        on_epoch: Told of each finished epoch (of rank 0).

    Raises:
        ConfigurationError: when Ray cannot be reached or the job fails.
    """
    fitted, folder = _on_ray(
        prepared, None, {}, storage=storage, address=address, num_workers=num_workers,
        use_gpu=use_gpu, on_epoch=on_epoch,
    )  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    assert isinstance(fitted, Fitted)
    return fitted, "cuda" if use_gpu else "cpu"


def fit_step_on_ray(
    name: str,
    prepared: Prepared,
    given: Mapping[str, Output],
    *,
    storage: Path,
    address: str | None,
    num_workers: int,
    use_gpu: bool,
    on_epoch: EpochReport,
) -> Output:
    """Run one step of ``fit.FIT_STEPS`` on workers; the rest is as in ``fit_on_ray``.

    ``storage`` stays: the step is not over before the caller has kept what this returns.
    """
    output, _ = _on_ray(
        prepared, name, given, storage=storage, address=address, num_workers=num_workers,
        use_gpu=use_gpu, on_epoch=on_epoch,
    )  # fmt: skip
    assert isinstance(output, dict)
    return output


def _on_ray(
    prepared: Prepared,
    step: str | None,
    given: Mapping[str, Output],
    *,
    storage: Path,
    address: str | None,
    num_workers: int,
    use_gpu: bool,
    on_epoch: EpochReport,
) -> tuple[object, Path]:
    """Give what came of it, and the folder that may go once that is kept."""
    storage = storage.absolute()
    storage.mkdir(parents=True, exist_ok=True)
    folder = storage / (run_name(prepared, given) + (f"-{step}" if step else ""))
    folder.mkdir(exist_ok=True)
    staged = folder / "prepared.pt"
    write_whole(staged, prepared)
    write_whole(folder / _GIVEN_FILE, dict(given))
    with started(address, num_workers), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own notices on our standard error
        _train(
            folder, staged, step=step, num_workers=num_workers, use_gpu=use_gpu, on_epoch=on_epoch
        )
    result: object = torch.load(folder / _FITTED_FILE, weights_only=False)
    return result, folder


def run_name(prepared: Prepared, given: Mapping[str, Output]) -> str:
    """Name a run by what it learns from, so that the same command finds it again."""
    return f"fit-{identity_of(prepared, given)}"


def _train(
    folder: Path,
    staged: Path,
    *,
    step: str | None,
    num_workers: int,
    use_gpu: bool,
    on_epoch: EpochReport,
) -> None:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):  # type: ignore[misc]
        def _register_sigint_handler(self, controller: Any) -> None:
            """Leave Ctrl-C to the command: Ray's handler ends the process with exit code 0."""

    run = folder / _RUN_FOLDER
    begin_run(run)
    threads = max(1, (os.cpu_count() or 1) // num_workers)
    trainer = Trainer(
        _worker,
        train_loop_config={
            "prepared": str(staged), "folder": str(folder), "use_gpu": use_gpu,
            "threads": threads, "step": step,
        },
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": 1}
            | ({"GPU": 1} if use_gpu else {}),
        ),
        run_config=RunConfig(
            name=run.name,
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT),
        ),
    )  # fmt: skip
    try:
        with _told(folder / _PROGRESS_FILE, on_epoch):
            trainer.fit()
    except Exception as error:  # Ray has many kinds; all of them end the run
        raise ConfigurationError(
            f"training on Ray failed: {error}\nthe run's checkpoints are in {folder}; the same "
            "command goes on from the last one"
        ) from error


@contextmanager
def _told(path: Path, on_epoch: EpochReport) -> Iterator[None]:
    """Pass on the lines rank 0 appends to ``path``, from a thread of the driver.

    Ray's own callbacks run in its controller process, which has no terminal; what a worker logs
    goes to files of its Ray, which are removed.
    """
    done = threading.Event()
    path.unlink(missing_ok=True)

    def follow() -> None:
        seen = 0
        while True:
            last = done.wait(0.2)
            text = path.read_text() if path.exists() else ""
            lines = text[: text.rfind("\n") + 1].splitlines()  # the last may be half written
            for line in lines[seen:]:
                told = json.loads(line)
                if isinstance(told, dict):
                    logger.warning(told.pop("message"), extra=told)
                else:
                    on_epoch(*told)
            seen = len(lines)
            if last:
                return

    thread = threading.Thread(target=follow, name="training-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _worker(config: dict[str, Any]) -> None:
    """Run on every worker."""
    import ray.train

    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    device = torch.device("cuda") if config["use_gpu"] else torch.device("cpu")
    world = World(rank=context.get_world_rank(), size=context.get_world_size(), device=device)
    prepared = Prepared.load(Path(config["prepared"]))
    checkpoints = RayCheckpoints(Path(config["folder"]) / _RUN_FOLDER, world.rank)
    progress = Path(config["folder"]) / _PROGRESS_FILE
    if world.rank == 0:
        logging.getLogger("training").addHandler(_ToDriver(progress))

    def tell(phase: str, epoch: int, epochs: int, loss: float) -> None:
        if world.rank == 0:
            with progress.open("a") as file:
                file.write(json.dumps([phase, epoch, epochs, loss]) + "\n")

    result: object
    if config["step"] is None:
        result = fit(prepared, world=world, checkpoints=checkpoints, on_epoch=tell)
    else:
        given = torch.load(Path(config["folder"]) / _GIVEN_FILE, weights_only=False)
        result = fit_step(
            config["step"], prepared, given, world=world, checkpoints=checkpoints, on_epoch=tell
        )
    if world.rank == 0:
        write_whole(Path(config["folder"]) / _FITTED_FILE, result)


class _ToDriver(logging.Handler):
    """Has the driver repeat a worker's warnings, where a user reads them."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.WARNING)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        extra = {n: v for n, v in vars(record).items() if n not in _RECORD_FIELDS}
        line = json.dumps({"message": record.getMessage(), **extra}, default=str)
        try:
            with self._path.open("a") as file:
                file.write(line + "\n")
        except OSError:
            self.handleError(record)


def write_whole(path: Path, content: object) -> None:
    """Write a file that is there whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    temporary.replace(path)

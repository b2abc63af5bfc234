"""What the commands of both comparisons have alike: options, errors, and the line of JSON."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from recsys.errors import ConfigurationError, RecsysError


def parser_of(name: str, *, shapes: Sequence[str]) -> argparse.ArgumentParser:
    """Give the options of both; the first of ``shapes`` is the default."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=tuple(shapes), default=shapes[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--turn-s", type=float, default=3.0, help="seconds of a turn, about")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--profile", action="store_true", help="tables of our side, nothing else")
    parser.add_argument("--compile", action="store_true", help="our side with torch.compile too")
    return parser


def run(
    name: str,
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    argv: Sequence[str] | None,
) -> int:
    """Measure and print; 0 when done, 1 with one line when it cannot be."""
    given = list(argv or ())
    try:
        report = measure(parser.parse_args(given))
    except RecsysError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1
    report["command"] = f"python -m benchmarks.{name} {shlex.join(given)}".strip()
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def device_of(arguments: argparse.Namespace) -> torch.device:
    """Give the device that was asked for, with so many threads as were.

    Raises:
        ConfigurationError: when there is none.
    """
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("wanted a CUDA device, found none; leave --device out")
    torch.set_num_threads(arguments.threads)
    return device

"""The kernel is asked for awake cores while the servers run, and no longer."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from recsys.errors import ConfigurationError
from recsys.wakefulness import DEVICE, awake_within, cores_wake_within_us


@pytest.mark.skipif(not os.access(DEVICE, os.W_OK), reason="the kernel's file may not be written")
def test_the_kernel_keeps_it_for_as_long_as_we_hold_it() -> None:
    before_us = cores_wake_within_us()  # what a result says of its machine
    with awake_within(7):
        assert cores_wake_within_us() == (7 if before_us is None else min(before_us, 7))
    with awake_within(None):
        assert cores_wake_within_us() == before_us


def test_a_machine_that_cannot_says_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(
            ConfigurationError, match=r"RECSYS_CPU_LATENCY_US=0: wanted to write .* unset"
        ),
        awake_within(0, device=tmp_path / "none"),
    ):
        pass
    with awake_within(None, device=tmp_path / "none"):
        pass
    device = tmp_path / "device"
    device.touch()
    with awake_within(20, device=device):
        assert device.read_bytes() == struct.pack("i", 20)

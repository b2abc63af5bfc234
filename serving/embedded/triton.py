"""The model server: Triton's own program out of the wheel ``nvidia-pytriton``, Python backend only.

Models are loaded by name over gRPC (explicit control mode); an empty repository is a fine start.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc

from recsys.errors import ServerError
from recsys.inference.triton_address import open_blocking_channel
from recsys.settings import Settings
from serving.embedded.folder import Report, install
from serving.embedded.launch import Launch, Missing
from serving.embedded.machine import libpython_folder, require_glibc
from serving.embedded.wheels import install_wheel

_WHEEL = "nvidia-pytriton-0.7.0"
_VERSION = "2.51.0"
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """How the embedded model server behaves."""

    shm_region_mib: int = 8
    """First size of the shared memory between the server and one model's process; it grows."""
    exit_timeout_s: int = 5
    """How long requests in flight may take once it is told to stop."""


def triton_launch(settings: Settings, report: Report, config: TritonConfig | None = None) -> Launch:
    """Give Triton on ``settings.triton_grpc_port`` (HTTP and metrics: the two ports after it).

    Raises:
        ServerError: not x86-64 Linux with glibc ≥ 2.35, a Python without its shared library, or
            the wheel cannot be installed.
    """
    config = config or TritonConfig()
    require_glibc((2, 35), "Triton")
    libpython = libpython_folder("Triton")
    installed = install(settings.servers_dir, _WHEEL, _build, wanted_mib=400, report=report)
    repository = settings.model_repository.absolute()
    repository.mkdir(parents=True, exist_ok=True)
    folder = _work_dir(settings)
    folder.mkdir(parents=True, exist_ok=True)
    grpc_port = settings.triton_grpc_port
    options = _options(settings, config, repository, _backends(installed))
    return Launch(
        name="triton",
        version=f"Triton {_VERSION} (Python backend)",
        command=(
            str(installed / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
            *(f"--{key}={value}" for key, value in options.items()),
            # Ours say all there is to say. Asking the model would start its process twice.
            "--disable-auto-complete-config",
            f"--backend-config=python,shm-region-prefix-name={_shared_memory_prefix(settings)}",
            f"--backend-config=python,shm-default-byte-size={config.shm_region_mib << 20}",
        ),
        environment={
            "LD_LIBRARY_PATH": os.pathsep.join(
                filter(
                    None,
                    (
                        str(libpython),
                        str(installed / "nvidia_pytriton.libs"),
                        os.environ.get("LD_LIBRARY_PATH", ""),
                    ),
                )
            ),
            # The backend's interpreter would else look for its standard library beside whichever
            # python3 comes first on PATH.
            "PYTHONHOME": f"{sys.base_prefix}:{sys.base_exec_prefix}",
        },
        address=f"{settings.host}:{grpc_port}",
        work_dir=folder,
        host=settings.host,
        ports={grpc_port + offset: "RECSYS_TRITON_GRPC_PORT" for offset in range(3)},
        missing=lambda: server_missing(f"{settings.host}:{grpc_port}"),
        before_start=lambda: free_shared_memory(settings),
        ready_timeout_s=60.0,
        stop_grace_s=config.exit_timeout_s + 5.0,
    )


def _backends(installed: Path) -> Path:
    """Give the folder of the Python backend for this Python. Raises ServerError without one."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    backends = installed / "backends" / version
    if not backends.is_dir():
        found = ", ".join(sorted(path.name for path in backends.parent.iterdir()))
        raise ServerError(
            f"Triton's Python backend wants a Python of {found}, found {version}; "
            "run `make setup PYTHON=python3.12`"
        )
    return backends


def _options(
    settings: Settings, config: TritonConfig, repository: Path, backends: Path
) -> dict[str, str]:
    """Give the flags of the server, by name."""
    return {
        "model-repository": str(repository),
        "backend-directory": str(backends),
        "model-control-mode": "explicit",
        "exit-on-error": "false",
        "strict-readiness": "false",  # ready means: answers; which model is live is the API's care
        "exit-timeout-secs": str(config.exit_timeout_s),
        "grpc-address": settings.host,
        "grpc-port": str(settings.triton_grpc_port),
        "http-address": settings.host,
        "http-port": str(settings.triton_grpc_port + 1),
        "metrics-address": settings.host,
        "metrics-port": str(settings.triton_grpc_port + 2),
        "allow-gpu-metrics": "false",
        "log-info": "false",
    }


def free_shared_memory(settings: Settings) -> None:
    """Remove what a killed Triton of this state folder left in shared memory."""
    for remains in _SHARED_MEMORY.glob(f"{_shared_memory_prefix(settings)}*"):
        remains.unlink(missing_ok=True)


def _work_dir(settings: Settings) -> Path:
    return settings.state_dir.absolute() / "triton"


def _shared_memory_prefix(settings: Settings) -> str:
    """Two servers on one machine, and the remains of a killed one, are told apart by it."""
    return f"recsys_{hashlib.sha256(str(_work_dir(settings)).encode()).hexdigest()[:12]}_"


def metrics_url(settings: Settings) -> str:
    """Give the embedded server's Prometheus address."""
    return f"http://{settings.host}:{settings.triton_grpc_port + 2}/metrics"


def calls_url(settings: Settings) -> str:
    """Give the embedded server's address as ``TRITON_GRPC_URL`` has it, its HTTP port included."""
    port = settings.triton_grpc_port
    return f"grpc://{settings.host}:{port}?http_port={port + 1}"


def server_missing(address: str, timeout_s: float = 1.0) -> Missing | None:
    """Call ServerReady of ``GRPCInferenceService``: ``None`` when it says ready.

    The request has no fields and the answer one boolean, so no generated code is needed, nor the
    client library and all it imports.
    """
    with open_blocking_channel(address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        try:
            answer = call(b"", timeout=timeout_s)
        except grpc.RpcError as error:
            return str(error.code().name if hasattr(error, "code") else error)
    return None if answer == b"\x08\x01" else "it answers that it is not ready"


def _build(target: Path) -> None:
    """Lay out one folder of backends for each Python the wheel has a stub for."""
    install_wheel("triton", target)
    server = target / "pytriton" / "tritonserver"
    (server / "bin" / "tritonserver").chmod(0o755)
    for stub in sorted((server / "python_backend_stubs").iterdir()):
        backend = target / "backends" / stub.name / "python"
        backend.mkdir(parents=True)
        for file in (server / "backends" / "python").iterdir():
            os.link(file, backend / file.name)
        program = backend / "triton_python_backend_stub"
        shutil.copyfile(stub / program.name, program)
        program.chmod(0o755)

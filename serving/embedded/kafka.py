"""The event log: Apache Kafka as a single KRaft node, storage under ``state_dir/kafka``.

``KAFKA_HOME`` is honoured first; else the jars are fetched by their Maven coordinates.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import ServerError
from recsys.settings import Settings
from serving.embedded.folder import Report, install
from serving.embedded.java import Java, find_java
from serving.embedded.launch import Launch
from serving.embedded.machine import MEBIBYTE, require_disk
from serving.embedded.maven import KAFKA_JARS_LOCK, KAFKA_VERSION, fetch_jars, read_lock
from serving.embedded.readiness import broker_missing

_FORMAT_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class KafkaConfig:
    """How the embedded broker behaves: durable, and small enough for a laptop."""

    heap_mib: int = 384
    """Java heap. The broker itself lives in about 100; the rest is for requests in flight."""
    direct_memory_mib: int = 128
    """Network buffers outside the heap."""
    retention_mib_per_partition: int = 1024
    """Oldest segments go beyond this; the Parquet event log is the long record."""
    segment_mib: int = 128
    wanted_free_mib: int = 1024
    """Disk that must be free to start."""


def kafka_launch(settings: Settings, report: Report, config: KafkaConfig | None = None) -> Launch:
    """Give the embedded broker on ``settings.kafka_port`` (controller: the port after it).

    Raises:
        ServerError: no Java, no jars, or the disk is full.
    """
    config = config or KafkaConfig()
    folder = settings.state_dir.absolute() / "kafka"
    require_disk(folder, config.wanted_free_mib * MEBIBYTE, "the Kafka broker")
    java = find_java()
    class_path, version, log_options = _program(settings, report)
    folder.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    address = f"{settings.host}:{settings.kafka_port}"

    def before_start() -> None:
        properties.write_text(_properties(settings, config, folder / "data"))
        _format(java, class_path, properties, folder)

    return Launch(
        name="kafka",
        version=f"{version} on Java {java.release}",
        command=(
            *_java_command(java, class_path),
            # All of the heap from the start: it would be filled within the hour anyway, and whoever
            # watches memory grow cannot tell that from a leak.
            f"-Xms{config.heap_mib}m",
            f"-Xmx{config.heap_mib}m",
            "-XX:+AlwaysPreTouch",
            f"-XX:MaxDirectMemorySize={config.direct_memory_mib}m",
            "-XX:+UseSerialGC",  # on two cores and a heap this small: least memory, least threads
            "-XX:TieredStopAtLevel=1",  # the better compiler cost more than it saved: decisions.md
            "-XX:+ExitOnOutOfMemoryError",
            *log_options,
            "kafka.Kafka",
            str(properties),
        ),
        address=address,
        work_dir=folder,
        host=settings.host,
        ports={
            settings.kafka_port: "RECSYS_KAFKA_PORT",
            settings.kafka_port + 1: "RECSYS_KAFKA_PORT",
        },
        missing=lambda: broker_missing(address, "kafka", settings),
        before_start=before_start,
        ready_timeout_s=90.0,
        stop_grace_s=15.0,
    )


def _program(settings: Settings, report: Report) -> tuple[str, str, tuple[str, ...]]:
    """Give class path, version and the options of its logging library."""
    home = settings.kafka_home
    if home is None:
        jars = install(
            settings.servers_dir,
            f"kafka-{KAFKA_VERSION}",
            lambda folder: fetch_jars(read_lock(KAFKA_JARS_LOCK), folder, report),
            wanted_mib=150,
            report=report,
        )
        return (
            f"{jars}/*",
            f"Apache Kafka {KAFKA_VERSION}",
            (
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                "-Dorg.slf4j.simpleLogger.log.kafka=info",
                "-Dorg.slf4j.simpleLogger.showDateTime=true",
                "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
            ),
        )
    found = sorted((home / "libs").glob("kafka_2*.jar"))
    if not found:
        raise ServerError(
            f"KAFKA_HOME wanted an unpacked Kafka, found no libs/kafka_2*.jar in {home}; "
            "correct it, or unset it to have the broker fetched"
        )
    version = found[0].stem.partition("-")[2]
    logs = settings.state_dir.absolute() / "kafka" / "logs"
    configuration = home / "config" / "log4j2.yaml"
    options = (f"-Dkafka.logs.dir={logs}", f"-Dlog4j2.configurationFile={configuration}")
    return f"{home.absolute()}/libs/*", f"Apache Kafka {version} of {home}", options


def _java_command(java: Java, class_path: str) -> tuple[str, ...]:
    quiet: tuple[str, ...] = ()
    if java.release >= 24:  # it warns of what the broker's own libraries do
        quiet = ("--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED")
    return (str(java.program), *quiet, "-Djava.awt.headless=true", "-cp", class_path)


def _properties(settings: Settings, config: KafkaConfig, data: Path) -> str:
    host, port = settings.host, settings.kafka_port
    values = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "listeners": f"PLAINTEXT://{host}:{port},CONTROLLER://{host}:{port + 1}",
        "advertised.listeners": f"PLAINTEXT://{host}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        # Static voters: the controller's port may then differ from one start to the next.
        "controller.quorum.voters": f"1@{host}:{port + 1}",
        "log.dirs": data,
        # One node: nothing can be replicated.
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # Each partition of these costs files and start-up time; one machine has few groups.
        "offsets.topic.num.partitions": 8,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.num.partitions": 1,
        "num.partitions": settings.num_partitions,
        # A killed broker may register anew once its last session has run out: 9 s by default.
        "broker.session.timeout.ms": 3_000,
        "broker.heartbeat.interval.ms": 500,
        "group.initial.rebalance.delay.ms": 0,  # no fleet of members to wait for
        "auto.create.topics.enable": "false",  # a misspelt topic must fail
        "log.message.timestamp.type": "LogAppendTime",  # freshness is counted from the append
        "log.retention.bytes": config.retention_mib_per_partition * MEBIBYTE,
        "log.segment.bytes": config.segment_mib * MEBIBYTE,
        "log.index.size.max.bytes": 2 * MEBIBYTE,
        "log.cleaner.threads": 1,
        "log.cleaner.dedupe.buffer.size": 16 * MEBIBYTE,  # 128 by default, out of the same heap
        "num.network.threads": 2,
        "num.io.threads": 4,
    }
    return "".join(f"{key}={value}\n" for key, value in values.items())


def _format(java: Java, class_path: str, properties: Path, folder: Path) -> None:
    """Format the storage once. The mark comes last, so a killed format is done again."""
    mark = folder / "formatted"
    if mark.exists():
        return
    shutil.rmtree(folder / "data", ignore_errors=True)
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    done = subprocess.run(
        [
            *_java_command(java, class_path),
            "-Xmx128m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # it lives for a second
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "kafka.tools.StorageTool",
            "format",
            f"--cluster-id={cluster_id}",  # one word: it may begin with a dash
            "--config",
            str(properties),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_FORMAT_TIMEOUT_S,
        env=dict(os.environ),
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ServerError(
            f"wanted to format Kafka's storage in {folder / 'data'}, found: "
            f"{said[-1] if said else f'exit code {done.returncode}'}; remove {folder} to begin anew"
        )
    mark.write_text(cluster_id)

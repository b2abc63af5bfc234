"""The same definition as a line for cron and as manifests for Kubernetes.

``RayCronJob`` (``ray.io/v1``) is KubeRay's: from 1.6 on, alpha, behind the feature gate of that
name; ``spec.timeZone`` came after it, and an older operator's CRD drops the field, so the schedule
is then in the operator's own zone. It makes a RayCluster for each run and takes it away afterwards.
Without KubeRay, a plain ``CronJob`` runs the pipeline in one pod with a Ray of its own.

Neither forbids two runs at once as strictly as our lease does, so the lease decides in both.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import yaml

from training.pipeline.definition import Definition
from training.pipeline.schedule import parse

STATE_PATH = "/var/lib/recsys"
_FILE_FOLDER, _FILE_NAME = "/etc/recsys", "pipeline.toml"
Manifest = dict[str, Any]


def cron_line(definition: Definition, *, file: Path, executable: str, state_dir: Path) -> str:
    """Give lines for a crontab.

    ``CRON_TZ`` is understood by cronie (Fedora, Arch) and not by Debian's cron, which runs in the
    machine's zone: the comment says so.
    """
    cron, zone = parse(definition.schedule)
    command = (
        f"cd {shlex.quote(str(file.absolute().parent))} && "
        f"RECSYS_STATE_DIR={shlex.quote(str(state_dir.absolute()))} "
        f"{shlex.quote(executable)} pipeline run --file {shlex.quote(str(file.absolute()))} --json "
        f">> {shlex.quote(str(state_dir.absolute() / 'pipeline' / 'cron.log'))} 2>&1"
    )
    escaped = command.replace("%", r"\%")  # a bare one ends the command
    return (
        f"# cronie runs this by the clock of {zone}; Debian's cron ignores CRON_TZ and runs it by "
        f"the machine's.\nCRON_TZ={zone}\n{cron} {escaped}\n"
    )


def kubernetes_manifests(
    definition: Definition, toml: str, *, kind: Literal["RayCronJob", "CronJob"]
) -> list[Manifest]:
    """Give the manifests: the definition as a ConfigMap, and what runs it.

    Args:
        definition: What to render.
        toml: The text of its file, which the pods read.
        kind: ``CronJob`` where there is no KubeRay.
    """
    place = definition.kubernetes
    labels = {"app.kubernetes.io/name": place.name, "app.kubernetes.io/part-of": "recsys"}
    cron, zone = parse(definition.schedule)
    config = {
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": _metadata(f"{place.name}-definition", place.namespace, labels),
        "data": {_FILE_NAME: toml},
    }  # fmt: skip
    if kind == "RayCronJob":
        spec: Manifest = {
            "schedule": cron,
            "timeZone": str(zone),
            "jobTemplate": _ray_job(definition),
        }
        runs = {"apiVersion": "ray.io/v1", "kind": "RayCronJob"}
    else:
        spec = {
            "schedule": cron,
            "timeZone": str(zone),
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "jobTemplate": {"spec": {"backoffLimit": 2, "template": {"spec": _pod(definition)}}},
        }
        runs = {"apiVersion": "batch/v1", "kind": "CronJob"}
    metadata_ = _metadata(place.name, place.namespace, labels)
    return [config, {**runs, "metadata": metadata_, "spec": spec}]


def as_yaml(manifests: list[Manifest]) -> str:
    """Give manifests as one file for ``kubectl apply -f -``."""
    text: str = yaml.safe_dump_all(manifests, sort_keys=False)
    return text


def _entrypoint() -> str:
    return f"recsys pipeline run --file {_FILE_FOLDER}/{_FILE_NAME} --json"


def _ray_job(definition: Definition) -> Manifest:
    place = definition.kubernetes
    workers = {
        "groupName": "workers",
        "replicas": place.workers,
        "minReplicas": place.workers,
        "maxReplicas": place.workers,
        "rayStartParams": {},
        "template": {"spec": _ray_pod(definition, gpus=place.gpus)},
    }
    return {
        "entrypoint": _entrypoint(),
        # The run finds its place again by itself: another try goes on where this one ended.
        "backoffLimit": 2,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "rayClusterSpec": {
            "rayVersion": metadata.version("ray"),
            "headGroupSpec": {
                "rayStartParams": {"dashboard-host": "0.0.0.0"},
                "template": {"spec": _ray_pod(definition, gpus=0)},
            },
            **({"workerGroupSpecs": [workers]} if place.workers else {}),
        },
    }


def _ray_pod(definition: Definition, *, gpus: int) -> Manifest:
    container = _container(definition, "ray", gpus=gpus)
    return {"containers": [container], "volumes": _volumes(definition)}


def _pod(definition: Definition) -> Manifest:
    container = _container(definition, "pipeline", gpus=definition.kubernetes.gpus)
    container["command"] = ["/bin/sh", "-c", f"exec {_entrypoint()}"]
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 60,
        "containers": [container],
        "volumes": _volumes(definition),
    }


def _container(definition: Definition, name: str, *, gpus: int) -> Manifest:
    place = definition.kubernetes
    limits: dict[str, str] = {"memory": place.memory}
    if gpus:
        limits["nvidia.com/gpu"] = str(gpus)
    return {
        "name": name,
        "image": place.image,
        "env": [{"name": "RECSYS_STATE_DIR", "value": STATE_PATH}],
        "envFrom": [{"configMapRef": {"name": place.config_map}}],
        "resources": {
            "requests": {"cpu": str(place.cpus), "memory": place.memory},
            "limits": limits,
        },
        "volumeMounts": [
            {"name": "state", "mountPath": STATE_PATH},
            {"name": "definition", "mountPath": _FILE_FOLDER, "readOnly": True},
        ],
    }


def _volumes(definition: Definition) -> list[Manifest]:
    place = definition.kubernetes
    return [
        {"name": "state", "persistentVolumeClaim": {"claimName": place.state_claim}},
        {"name": "definition", "configMap": {"name": f"{place.name}-definition"}},
    ]


def _metadata(name: str, namespace: str, labels: Mapping[str, str]) -> Manifest:
    return {"name": name, "namespace": namespace, "labels": dict(labels)}

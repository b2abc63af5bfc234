"""The definition renders to what KubeRay, Kubernetes and cron read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from training.pipeline.cli import main
from training.pipeline.definition import read_definition
from training.pipeline.manifests import as_yaml, cron_line, kubernetes_manifests

SCHEMAS = json.loads((Path(__file__).parent / "kubernetes_schemas.json").read_text())
TOML = """
recipe = "debug"
[schedule]
cron = "30 2 * * 1-5"
time_zone = "Europe/Berlin"
[kubernetes]
name = "shop"
workers = 2
gpus = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pipe line.toml"
    path.write_text(TOML)
    return path


@pytest.mark.parametrize("kind", ["RayCronJob", "CronJob"])
def test_manifests_fit_the_schemas_and_read_back(file: Path, kind) -> None:
    made = kubernetes_manifests(read_definition(file, {}), TOML, kind=kind)
    read = list(yaml.safe_load_all(as_yaml(made)))
    assert read == made
    config, runs = read
    jsonschema.validate(config, SCHEMAS["ConfigMap"])
    jsonschema.validate(runs, SCHEMAS[kind])
    assert runs["kind"] == kind and runs["spec"]["schedule"] == "30 2 * * 1-5"
    assert runs["spec"]["timeZone"] == "Europe/Berlin"
    assert read_definition_of(config, file.parent) == read_definition(file, {})


def read_definition_of(config: dict, folder: Path):
    path = folder / "again.toml"
    path.write_text(config["data"]["pipeline.toml"])
    return read_definition(path, {})


def test_the_schemas_refuse_what_the_server_would(file: Path) -> None:
    _, runs = kubernetes_manifests(read_definition(file, {}), TOML, kind="RayCronJob")
    runs["spec"]["concurrencyPolicy"] = "Forbid"  # Kubernetes' own, not KubeRay's
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(runs, SCHEMAS["RayCronJob"])


def test_workers_get_the_devices_and_all_pods_one_state(file: Path) -> None:
    _, runs = kubernetes_manifests(read_definition(file, {}), TOML, kind="RayCronJob")
    cluster = runs["spec"]["jobTemplate"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    head, worker = (g["template"]["spec"] for g in (cluster["headGroupSpec"], group))
    assert group["replicas"] == 2
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]
    for pod in (head, worker):
        claims = [v.get("persistentVolumeClaim", {}).get("claimName") for v in pod["volumes"]]
        assert "recsys-state" in claims


def test_a_cron_line_runs_what_it_says(file: Path, tmp_path: Path) -> None:
    """A shell runs it as cron would, with a program that writes its arguments down."""
    program = tmp_path / "my recsys"
    program.write_text('#!/bin/sh\nprintf "%s|" "$RECSYS_STATE_DIR" "$@" > "$0.said"\n')
    program.chmod(0o755)
    (tmp_path / "100% state" / "pipeline").mkdir(parents=True)
    text = cron_line(
        read_definition(file, {}), file=file, executable=str(program),
        state_dir=tmp_path / "100% state",
    )  # fmt: skip
    comment, zone, line = text.splitlines()
    assert comment.startswith("#") and zone == "CRON_TZ=Europe/Berlin"
    fields, command = line.split(" ", 5)[:5], line.split(" ", 5)[5]
    assert " ".join(fields) == "30 2 * * 1-5"
    assert "%" not in command.replace(r"\%", "")
    subprocess.run(["sh", "-c", command.replace(r"\%", "%")], check=True)
    said = Path(f"{program}.said").read_text().split("|")
    assert said[:-1] == [
        str(tmp_path / "100% state"), "pipeline", "run", "--file", str(file), "--json",
    ]  # fmt: skip


def test_the_command_prints_them(file: Path, capsys) -> None:
    assert main(["render", "--file", str(file), "--kubernetes-job"]) == 0
    read = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [m["kind"] for m in read] == ["ConfigMap", "CronJob"]
    assert main(["render", "--file", str(file), "--cron", "5 4 * * *", "--cron-line"]) == 0
    assert "\n5 4 * * * cd " in capsys.readouterr().out
    assert main(["render", "--file", str(file), "--cron", "5 4", "--cron-line"]) == 2
    assert "five fields" in capsys.readouterr().err

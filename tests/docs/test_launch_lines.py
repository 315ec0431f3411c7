"""The launch lines of docs/distributed-training.md start a cluster."""

import json
import os
import re
import subprocess

import pytest
from helpers import ROOT

DOCS = ROOT / "docs" / "distributed-training.md"

# What a machine of Slurm has, of two nodes; and the command, which tells its place.
STANDINS = {
    "scontrol": '[ "$*" = "show hostnames node[7,9]" ] && echo node7 && echo node9',
    "srun": 'shift; for n in 0 1; do SLURM_PROCID=$n "$@" || exit; done',
    "resnext-keras": 'echo "$TF_CONFIG|$KERAS_DISTRIBUTION_NUM_PROCESSES|$*"',
}


def blocks(heading):
    """The code under a heading."""
    section = DOCS.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```\w*\n(.*?)```", section, re.S)


@pytest.fixture
def run(tmp_path):
    """Runs a script of bash among the stand-ins, and gives what each worker has."""
    for name, script in STANDINS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)

    def run_script(script, **environment):
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euc", script],
            env=environment | {"PATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.split("|") for line in done.stdout.splitlines()]

    return run_script


def workers(found):
    """The clusters that workers were told of, and their places."""
    for config, _, command in found:
        assert command.startswith("train ")
        assert command.endswith(" --resume")
        config = json.loads(config)
        assert config["task"]["type"] == "worker"
        yield config["cluster"]["worker"], config["task"]["index"]


def test_slurm_tells_each_task_of_all(run):
    (script,) = blocks("Slurm, TensorFlow")
    hosts = ["node7:2222", "node9:2222"]
    found = run(script, SLURM_JOB_NODELIST="node[7,9]", SLURM_JOB_ID="1")
    assert list(workers(found)) == [(hosts, 0), (hosts, 1)]


def test_slurm_tells_jax_how_many_there_are(run):
    (script,) = blocks("Slurm, JAX")
    found = run(script, SLURM_NTASKS="32", SLURM_JOB_ID="1")
    assert [processes for _, processes, _ in found] == ["32", "32"]


def test_kubernetes_tells_each_pod_of_all(run):
    manifest, jax = blocks("Kubernetes")
    (script,) = re.findall(r"- \|\n((?: {14}.*\n)+)", manifest)
    hosts = [f"train-{number}.train:2222" for number in range(4)]
    (found,) = run(script.replace(" " * 14, ""), JOB_COMPLETION_INDEX="3")
    assert list(workers([found])) == [(hosts, 3)]
    ((_, processes, _),) = run(jax, JOB_COMPLETION_INDEX="3")
    assert processes == "4"

"""What the recipes of docs/recipes set is what `kgpt train` reads."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from kgpt.config import preset_path
from kgpt.launch.process_group import find_process_group

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
NODES = 4


def commands(text):
    """The `kgpt train` commands in a script, as words."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line[line.index("kgpt train") :]) for line in lines if "kgpt train" in line]


def check_command(words):
    assert words[:2] == ["kgpt", "train"]
    preset_path(words[2])  # raises if there is none
    options = {word for word in words[3:] if word.startswith("--")}
    assert options == {"--data", "--run"}


def check_syntax(script):
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def environment(container):
    return {entry["name"]: entry["value"] for entry in container["env"]}


@pytest.mark.parametrize("name", ["jobset.yaml", "trainjob.yaml", "skypilot.yaml"])
def test_yaml_is_valid_and_its_first_comment_says_how_to_use_it(name):
    text = (RECIPES / name).read_text()
    assert yaml.safe_load(text)
    assert f"docs/recipes/{name}" in text.splitlines()[1]


def test_jobset():
    spec = yaml.safe_load((RECIPES / "jobset.yaml").read_text())
    (job,) = spec["spec"]["replicatedJobs"]
    indexed = job["template"]["spec"]
    assert (indexed["completionMode"], indexed["parallelism"]) == ("Indexed", NODES)
    assert indexed["completions"] == NODES
    pod = indexed["template"]["spec"]
    (container,) = pod["containers"]
    environ = environment(container)
    # The name of the first pod and of the service of a JobSet, and the port that is open.
    name, port = spec["metadata"]["name"], container["ports"][0]["containerPort"]
    assert environ["JAX_COORDINATOR_ADDRESS"] == f"{name}-{job['name']}-0-0.{name}:{port}"
    for index in range(NODES):  # which Kubernetes sets
        group = find_process_group(environ=environ | {"JOB_COMPLETION_INDEX": str(index)})
        assert group is not None
        assert (group.num_processes, group.process_id) == (NODES, index)
    (script,) = container["args"]
    check_syntax(script)
    check_command([word for word in commands(script)[0] if "resume" not in word])


def test_trainjob():
    spec = yaml.safe_load((RECIPES / "trainjob.yaml").read_text())["spec"]
    assert spec["runtimeRef"]["name"] == "jax-distributed"
    trainer = spec["trainer"]
    assert environment(trainer)["KERAS_BACKEND"] == "jax"
    check_command(trainer["command"])
    # As the runtime sets them (Kubeflow Trainer 2.3, pkg/runtime/framework/plugins/jax).
    runtime = {
        "JAX_NUM_PROCESSES": str(trainer["numNodes"]),
        "JAX_COORDINATOR_ADDRESS": "kgpt-node-0-0.kgpt:29500",
        "JAX_COORDINATOR_PORT": "29500",
        "JAX_PROCESS_ID": "3",
    }
    group = find_process_group(environ=environment(trainer) | runtime)
    assert group is not None
    assert (group.num_processes, group.process_id) == (NODES, 3)
    assert group.coordinator == "kgpt-node-0-0.kgpt:29500"


def test_skypilot(tmp_path):
    """The script runs, with SkyPilot's variables and a program in place of kgpt."""
    task = yaml.safe_load((RECIPES / "skypilot.yaml").read_text())
    fake = tmp_path / "kgpt"
    fake.write_text("#!/bin/sh\nenv | grep ^JAX_\necho kgpt $*\n")
    fake.chmod(0o755)
    for rank in (0, 3):
        sky = {
            "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6\n10.0.0.7\n10.0.0.8",
            "SKYPILOT_NUM_NODES": str(task["num_nodes"]),
            "SKYPILOT_NODE_RANK": str(rank),
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["bash", "-eu"], input=task["run"], env=task["envs"] | sky,
            text=True, check=True, capture_output=True,
        )  # fmt: skip
        *variables, command = done.stdout.splitlines()
        group = find_process_group(environ=dict(line.split("=") for line in variables))
        assert group is not None
        assert (group.coordinator, group.num_processes, group.process_id) == (
            "10.0.0.5:29500",
            NODES,
            rank,
        )
        check_command(command.split())


def test_slurm(tmp_path):
    """The script runs, with a program in place of srun that sets what a task of it has."""
    text = (RECIPES / "train.sbatch").read_text()
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in text.splitlines()
        if line.startswith("#SBATCH")
    )
    assert (options["nodes"], options["ntasks-per-node"]) == (str(NODES), "1")
    check_syntax(text)
    fake = tmp_path / "srun"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    batch = {"SLURM_JOB_ID": "77", "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def submit():
        done = subprocess.run(
            ["bash", str(RECIPES / "train.sbatch")],
            env=batch, cwd=tmp_path, text=True, check=True, capture_output=True,
        )  # fmt: skip
        return done.stdout.split()

    first, *words = submit()
    assert first == "--kill-on-bad-exit=1"
    check_command(words)
    run = words[words.index("--run") + 1]
    (tmp_path / "runs" / run).mkdir(parents=True)
    (tmp_path / "runs" / run / "run.yaml").touch()
    assert submit()[-1] == "--resume"  # a job that is requeued has the same number
    task = {
        "SLURM_STEP_NODELIST": f"node[1-{NODES}]",
        "SLURM_STEP_NUM_TASKS": str(NODES),
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
    }
    group = find_process_group(environ=batch | task)
    assert group is not None
    assert (group.num_processes, group.process_id, group.local_device_ids) == (NODES, 2, None)
    assert group.coordinator.startswith("node1:")

"""Every launcher's and scheduler's variables lead to the same group; contradictions are refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.errors import UsageError
from kgpt.launch.process_group import ProcessGroup, find_process_group

HOSTS = st.sampled_from(["node1", "10.0.0.1", "gpu-7.cluster"])


def keras(host, port, size, rank):
    return {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"{host}:{port}",
        "KERAS_DISTRIBUTION_NUM_PROCESSES": str(size),
        "KERAS_DISTRIBUTION_PROCESS_ID": str(rank),
    }


def keras_with_all_addresses(host, port, size, rank):
    others = [f"other{i}:1" for i in range(size - 1)]
    return {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": ",".join([f"{host}:{port}", *others]),
        "KERAS_DISTRIBUTION_PROCESS_ID": str(rank),
    }


def jax(host, port, size, rank):
    return {
        "JAX_COORDINATOR_ADDRESS": f"{host}:{port}",
        "JAX_NUM_PROCESSES": str(size),
        "JAX_PROCESS_ID": str(rank),
    }


def jaxjob(host, port, size, rank):
    return {
        "COORDINATOR_ADDRESS": host,
        "COORDINATOR_PORT": str(port),
        "NUM_PROCESSES": str(size),
        "PROCESS_ID": str(rank),
    }


def jobset(host, port, size, rank):
    return {
        "JAX_COORDINATOR_ADDRESS": host,
        "JAX_COORDINATOR_PORT": str(port),
        "JAX_NUM_PROCESSES": str(size),
        "JOB_COMPLETION_INDEX": str(rank),
    }


def tf_config(host, port, size, rank):
    cluster = {"chief": [f"{host}:{port}"], "worker": [f"w{i}:1" for i in range(size - 1)]}
    task = {"type": "worker", "index": rank - 1} if rank else {"type": "chief", "index": 0}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def torchrun(host, port, size, rank):
    return {
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "RANK": str(rank),
    }


def slurm(host, port, size, rank):
    """With MASTER_ADDR and MASTER_PORT, as scripts for `srun` set them."""
    return {
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "node[1-9]",
        "SLURM_STEP_NUM_TASKS": str(size),
        "SLURM_PROCID": str(rank),
    }


def open_mpi(host, port, size, rank):
    """From within a task of SLURM, which is there to start it and no process of the group."""
    return {
        "JAX_COORDINATOR_ADDRESS": f"{host}:{port}",
        "OMPI_COMM_WORLD_SIZE": str(size),
        "OMPI_COMM_WORLD_RANK": str(rank),
        "SLURM_STEP_NODELIST": "node1",
        "SLURM_STEP_NUM_TASKS": "1",
        "SLURM_PROCID": "0",
    }


def pmi(host, port, size, rank):
    return {
        "JAX_COORDINATOR_ADDRESS": f"{host}:{port}",
        "PMI_SIZE": str(size),
        "PMI_RANK": str(rank),
    }


EXPLICIT = [keras, keras_with_all_addresses, jax, jaxjob, tf_config, torchrun]
ALL = [*EXPLICIT, jobset, slurm, open_mpi, pmi]
groups = st.integers(2, 4096).flatmap(
    lambda size: st.tuples(HOSTS, st.integers(1, 65535), st.just(size), st.integers(0, size - 1))
)


@given(st.sampled_from(ALL), groups)
def test_all_state_one_contract(variables, group):
    host, port, size, rank = group
    found = find_process_group(environ=variables(*group))
    assert found is not None
    assert (found.coordinator, found.num_processes, found.process_id) == (
        f"{host}:{port}",
        size,
        rank,
    )


@given(st.sampled_from(EXPLICIT), groups, st.booleans())
def test_flags_that_agree_change_nothing_and_others_are_refused(variables, group, agrees):
    *_, size, rank = group
    environ = variables(*group)
    if agrees:
        with_flags = find_process_group(None, size, rank, environ)
        assert with_flags == find_process_group(environ=environ)
    else:
        with pytest.raises(UsageError, match=r"--num-processes is .* but .* is .*; unset one"):
            find_process_group(None, size + 1, rank, environ)
        with pytest.raises(UsageError, match=r"--process-id is .* but .* is .*; unset one"):
            find_process_group(None, size, (rank + 1) % size, environ)


@given(st.sampled_from(EXPLICIT), st.sampled_from(EXPLICIT), groups)
def test_two_launchers_must_agree_on_the_rank(first, second, group):
    host, port, size, rank = group
    if first in (keras, keras_with_all_addresses) and second in (keras, keras_with_all_addresses):
        return
    if first is second:
        return
    other = second(host, port, size, (rank + 1) % size)
    with pytest.raises(UsageError, match="unset one of them"):
        find_process_group(environ=first(*group) | other)


@given(st.sampled_from(ALL), groups)
def test_a_launcher_within_a_task_of_the_scheduler_decides(variables, group):
    outer = {
        "SLURM_JOB_ID": "12345",
        "SLURM_STEP_NODELIST": "gpu[07-09]",
        "SLURM_STEP_NUM_TASKS": "1",
        "SLURM_PROCID": "0",
    }
    if variables in (slurm, jobset):
        return
    found = find_process_group(environ=outer | variables(*group))
    assert found is not None
    assert (found.num_processes, found.process_id) == group[2:]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"MASTER_ADDR": "node1", "MASTER_PORT": "1234"},
        {"JOB_COMPLETION_INDEX": "3"},
        {"KERAS_DISTRIBUTION_NUM_PROCESSES": "1", "KERAS_DISTRIBUTION_PROCESS_ID": "0"},
        # A script of sbatch, in which no task of srun runs.
        {"SLURM_JOB_ID": "9", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_NODELIST": "a[1-8]"},
    ],
)
def test_no_group(environ):
    assert find_process_group(environ=environ) is None


def test_slurm_states_all_and_the_local_rank():
    environ = {
        "SLURM_JOB_ID": "8192",
        "SLURM_STEP_NODELIST": "gpu[003-005,9],login",
        "SLURM_STEP_NUM_TASKS": "32",
        "SLURM_STEP_TASKS_PER_NODE": "8(x4)",
        "SLURM_PROCID": "11",
        "SLURM_LOCALID": "3",
    }
    group = find_process_group(environ=environ)
    assert group == ProcessGroup("gpu003:61440", 32, 11, 3, 8)
    assert group.local_device_ids == [3] and not group.is_primary


def test_open_mpi_meets_where_mpirun_is():
    uri = "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"
    size = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}
    group = find_process_group(environ={"OMPI_MCA_orte_hnp_uri": uri, **size})
    assert group is not None
    assert group.coordinator == "10.96.0.1:29500"
    with pytest.raises(UsageError, match="Open MPI states 4 processes, but not where they meet"):
        find_process_group(environ=size)


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "nothing says how many processes there are"),
        ({"JAX_PROCESS_ID": "1"}, "JAX_PROCESS_ID is 1, but JAX_NUM_PROCESSES is not set"),
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES is 2, but JAX_PROCESS_ID is not set"),
        (jax("a", 1, 2, 2), "JAX_PROCESS_ID is 2, but of 2 processes the last is 1"),
        (jax("a", 1, 1, 1), "JAX_PROCESS_ID is 1, but of 1 processes the last is 0"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two'; it should be a number"),
        ({**jax("a", 1, 2, 1), "JAX_COORDINATOR_ADDRESS": "a:b"}, "'a:b' is no address"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, "not where they meet"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG is not the JSON"),
        (
            {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "ps"}}'},
            "TF_CONFIG makes this process ps 0; only chief and workers train",
        ),
        (
            {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": "a:1,b:1",
                "KERAS_DISTRIBUTION_NUM_PROCESSES": "3",
            },
            "has 2 addresses, but KERAS_DISTRIBUTION_NUM_PROCESSES is 3",
        ),
        (
            {"JAX_NUM_PROCESSES": "4", "PMI_SIZE": "2", "PMI_RANK": "0"},
            "JAX_NUM_PROCESSES is 4, but PMI starts 2 processes",
        ),
    ],
)
def test_what_is_incomplete_or_contradictory_is_refused_in_a_sentence(environ, sentence):
    with pytest.raises(UsageError, match=sentence):
        find_process_group(environ=environ)

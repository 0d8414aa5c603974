"""Who started this process: environments as the launchers set them."""

import time

import pytest

from widestep.errors import EnvironmentFault
from widestep.workers.launched import Launch, detect, is_launched, seconds_of_job

TORCHRUN = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "ROLE_RANK": "5",
    "ROLE_NAME": "default",
    "MASTER_ADDR": "node01",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
}
LSF = {"LSB_JOBID": "112233", "LSB_HOSTS": "batch1 h41n05 h41n05", "LSB_DJOB_NUMPROC": "85"}
JSRUN = {
    **LSF,
    "JSM_NAMESPACE_RANK": "7",
    "JSM_NAMESPACE_SIZE": "12",
    "JSM_NAMESPACE_LOCAL_RANK": "1",
    "JSM_NAMESPACE_LOCAL_SIZE": "6",
    "OMPI_COMM_WORLD_RANK": "7",
    "OMPI_COMM_WORLD_SIZE": "12",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "PMIX_RANK": "7",
}
BATCH_SHELL = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS": "8",
    "SLURM_NPROCS": "8",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_NODELIST": "n[01-02]",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
SRUN = {
    **BATCH_SHELL,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "3",
    "PMIX_RANK": "2",
}
# mpirun starts its daemons with srun, so that its processes see that step's variables: one task a node.
MPIRUN_IN_SBATCH = {
    **BATCH_SHELL,
    **MPIRUN,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
}


def test_torchrun() -> None:
    assert detect(TORCHRUN) == Launch("torchrun", 5, 8, 1, "node01", 29500, one_host=False)


def test_jsrun_over_hosts() -> None:
    assert detect({**JSRUN, "MASTER_ADDR": "h41n05"}) == Launch(
        "jsrun", 7, 12, 1, "h41n05", 10_000 + 112233 % 50_000, one_host=False
    )


def test_jsrun_on_one_host_needs_no_address() -> None:
    one_host = {**JSRUN, "JSM_NAMESPACE_SIZE": "6", "JSM_NAMESPACE_RANK": "1"}
    assert detect(one_host) == Launch("jsrun", 1, 6, 1, "127.0.0.1", 22_233)


def test_mpirun() -> None:
    assert detect(MPIRUN) == Launch("mpirun", 2, 3, 2, "127.0.0.1", 10_000)


def test_mpirun_inside_sbatch_is_mpirun() -> None:
    assert detect(MPIRUN_IN_SBATCH) == Launch("mpirun", 2, 3, 2, "127.0.0.1", 14_711)


def test_srun_step() -> None:
    assert detect({**SRUN, "MASTER_ADDR": "n01", "MASTER_PORT": "12345"}) == Launch(
        "srun", 6, 8, 2, "n01", 12345, one_host=False
    )


def test_srun_step_on_one_host() -> None:
    one_host = {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_LOCALID": "6"}
    assert detect(one_host) == Launch("srun", 6, 8, 6, "127.0.0.1", 14_711)


def test_steps_of_a_job_that_run_side_by_side_listen_apart() -> None:
    """`srun ... & srun ... & wait` on one node; MASTER_PORT still has the last word."""
    ports = []
    for step in range(40):
        found = detect({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_STEP_ID": str(step)})
        assert found is not None
        ports.append(found.port)
    assert ports[:2] == [14_711, 15_720]
    assert len(set(ports)) == 40
    assert all(10_000 <= port < 60_000 for port in ports)


def test_batch_shell_is_no_launch() -> None:
    assert detect(BATCH_SHELL) is None
    assert detect({**BATCH_SHELL, "SLURM_STEP_NUM_TASKS": "8"}) is None  # as a user may export it
    assert detect(LSF) is None


def test_nobody() -> None:
    assert detect({}) is None
    assert detect({"RANK": "0", "MASTER_ADDR": "somewhere"}) is None  # half of a launch is none


def test_the_scheduler_says_where_process_0_is() -> None:
    found = detect({**SRUN, "SLURM_STEP_NODELIST": "n[01-02]"})
    assert found == Launch("srun", 6, 8, 2, "n01", 14_711, one_host=False)
    hosts = {"LSB_MCPU_HOSTS": "batch1 1 h41n05 42 h41n06 42"}
    assert detect({**JSRUN, **hosts}) == Launch("jsrun", 7, 12, 1, "h41n05", 22_233, one_host=False)


@pytest.mark.parametrize("environment", [JSRUN, SRUN], ids=["jsrun", "srun"])
def test_several_hosts_need_the_address_of_process_0(environment: dict[str, str]) -> None:
    with pytest.raises(EnvironmentFault, match="MASTER_ADDR is not set"):
        detect(environment)
    assert is_launched(environment)


def test_torchrun_on_one_host_with_a_store_of_its_own() -> None:
    alone = {**TORCHRUN, "LOCAL_WORLD_SIZE": "8", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2"}
    found = detect(alone)
    assert found is not None
    assert (found.one_host, found.has_store, found.attempt) == (True, True, 2)


def test_a_requeued_job_is_another_attempt() -> None:  # row 24
    found = detect({**SRUN, "MASTER_ADDR": "n01", "SLURM_RESTART_COUNT": "1"})
    assert found is not None
    assert found.attempt == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"RANK": "five"}, "torchrun sets RANK to a whole number. It is 'five'"),
        ({"WORLD_SIZE": ""}, "torchrun sets WORLD_SIZE to a whole number. It is ''"),
        ({"MASTER_PORT": "-1"}, "torchrun sets MASTER_PORT to a whole number. It is '-1'"),
        ({"RANK": "8"}, "numbered from 0. RANK is 8 and WORLD_SIZE is 8"),
        ({"WORLD_SIZE": "0"}, "numbered from 0. RANK is 5 and WORLD_SIZE is 0"),
    ],
)
def test_an_environment_that_cannot_be(changes: dict[str, str], words: str) -> None:
    with pytest.raises(EnvironmentFault, match=words):
        detect({**TORCHRUN, **changes})


def test_the_end_of_a_job_is_known_from_slurm() -> None:
    left = seconds_of_job({"SLURM_JOB_END_TIME": str(int(time.time()) + 3600)})
    assert left is not None
    assert 3595 < left <= 3600
    assert seconds_of_job({}) is None
    assert seconds_of_job({"SLURM_JOB_END_TIME": "tomorrow"}) is None

"""A site's settings: what they may be, how many trials fit a task, and how tasks are split into arrays."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.errors import UsageError
from widestep.study.cluster import Cluster, arrays, label_of, log_of, note_log, read_cluster


@pytest.mark.parametrize(
    ("settings", "threads", "device", "slots"),
    [
        ({}, 1, "auto", 1),
        ({"cpus_per_task": 8}, 1, "auto", 8),
        ({"cpus_per_task": 8}, 3, "cpu", 2),
        ({"cpus_per_task": 2}, 4, "cpu", 1),
        ({"gpus_per_node": 6, "cpus_per_task": 42}, 1, "auto", 6),
        ({"gpus_per_node": 6, "cpus_per_task": 42}, 1, "cpu", 42),
        ({"gres": "gpu:a100:4"}, 1, "cuda", 4),
        ({"gres": "gpu:2,nvme:1"}, 1, "auto", 2),
        ({"gres": "nvme:1", "cpus_per_task": 3}, 1, "auto", 3),
        ({"nodes": 2, "gpus_per_node": 6}, 1, "auto", 1),  # they compute one trial together
        ({"tasks_per_node": 6, "gpus_per_node": 6}, 1, "auto", 1),
    ],
)
def test_how_many_trials_a_task_runs_at_a_time(settings, threads, device, slots):
    assert Cluster(**settings).slots(threads, device) == slots


def test_a_file_and_options_that_count_more(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text('account = "abc123"\npartition = "batch"\ntime_limit = "2h"\nsetup = ["module load python"]\n')
    found = read_cluster(path, {"account": None, "partition": "debug", "time_limit": "30m"})
    assert found == Cluster(account="abc123", partition="debug", time_limit="30m", setup=["module load python"])
    assert found.time_limit == 1800
    assert read_cluster(None, {"account": "x", "partition": None}) == Cluster(account="x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('acount = "a"', "'acount' is not a field of the cluster .*, line 1. Perhaps you meant 'account'"),
        ("nodes = 0", "nodes .*line 1.*greater than or equal to 1. Got 0"),
        ('nodes = "two"', "nodes .*line 1"),
        ('account = "a b"', "account .*line 1"),
        ('account = "a\\n#SBATCH --uid=0"', "account .*line 1"),
        ('account = "-x"', "account .*line 1"),
        ('partition = "$(touch x)"', "partition .*line 1"),
        ('constraint = "a;`b`"', "constraint .*line 1"),
        ('lines = ["--mail-type=END\\n--uid=0"]', "lines.0 .*line 1"),
        ('lines = ["mail"]', "lines.0 .*line 1"),
        ('memory = "lots"', "memory .*line 1"),
        ('time_limit = "60s"', "A task must have a minute to compute before it is told to stop. time_limit is 60s and"),
        ('time_limit = "soon"', "A time is a number of seconds above 0"),
        ("nodes =", "line 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_their_line(tmp_path, text, said):
    path = tmp_path / "site.toml"
    path.write_text(text + "\n")
    with pytest.raises(UsageError) as caught:
        read_cluster(path, {})
    assert re.search(said, str(caught.value))


def test_features_of_nodes_are_combined_as_slurm_combines_them():
    for constraint in ("intel&gpu80", "[rack1|rack2]", "(a|b)*2", "a,b"):
        assert Cluster(constraint=constraint).constraint == constraint


@given(st.integers(1, 10_000), st.integers(1, 3_000))
def test_tasks_are_split_into_the_fewest_arrays(num_tasks, largest):
    found = arrays(num_tasks, largest)
    assert sum(found) == num_tasks
    assert max(found) <= largest
    assert max(found) - min(found) <= 1
    assert (len(found) - 1) * largest < num_tasks


def test_a_submission_has_a_name_of_its_own(tmp_path):
    names = {label_of("a.b-c_d", tmp_path / place, number) for place in ("x", "y; touch z\n") for number in (0, 1)}
    assert len(names) == 4
    assert all(re.fullmatch(r"widestep-a\.b-c_d-[0-9a-f]{6}-[01]", name) for name in names)


def test_the_state_of_a_trial_names_the_log_of_its_job(make):
    store = make()
    first, second = store.trials[:2]
    note_log(store.directory, [first.fingerprint], "slurm/logs/12_3.out")
    assert store.state(first).as_dict()["job_log"] == str(store.directory / "slurm/logs/12_3.out")
    assert "job_log" not in store.state(second).as_dict()


def test_the_log_of_a_trial_is_found(tmp_path):
    assert log_of(tmp_path, "abc") is None
    note_log(tmp_path, ["abc", "def"], "slurm/logs/12_3.out")
    note_log(tmp_path, ["def"], "slurm/logs/13_0.out")
    assert log_of(tmp_path, "abc") == tmp_path / "slurm/logs/12_3.out"
    assert log_of(tmp_path, "def") == tmp_path / "slurm/logs/13_0.out"
    (tmp_path / "slurm" / "trials" / "abc").write_text("[")
    assert log_of(tmp_path, "abc") is None

"""`study run`, `plan` and `work` on a cluster, as the command line shows them: options, sentences and exit codes."""

import signal

import pytest

from widestep.cli import study_cluster, study_work
from widestep.study.campaign import Campaign
from widestep.study.cluster import Cluster, Queue
from widestep.study.store import StudyStore
from widestep.study.study import parse


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run tiny.toml --account a", "Settings of a cluster need --on slurm or --on lsf. Got --account without it."),
        ("run tiny.toml --time 1h --submit-only", "Got --time, --submit-only without it."),
        ("plan tiny.toml --partition p", "Got --partition without it."),
        ("run tiny.toml --on slurm --jobs 2", "Leave --jobs out; set cpus_per_task or gpus_per_node in the file"),
        ("plan tiny.toml --on lsf --jobs 2", "Leave --jobs out; set cpus_per_task or gpus_per_node in the file"),
        ("run tiny.toml --on slurm --cluster none.toml", "none.toml"),
        ("run tiny.toml --on slurm --time soon", "A time is a number of seconds above 0, or one with its unit"),
        ("run tiny.toml --on slurm --account a;b --partition x", None),
        ("run tiny.toml --on slurm --account $(x)", "account (in the options of the cluster)"),
        ("run tiny.toml --on pbs", "pbs"),
    ],
)
def test_options_that_do_not_fit(say, empty, tiny, monkeypatch, words, said):
    (empty / "tiny.toml").write_text(tiny.read_text())
    monkeypatch.setenv("PATH", str(empty))
    found = say(f"study {words}")
    assert found.code == (2 if said else 5)
    assert (said or "sbatch cannot be run: No such file or directory") in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("scheduler", ["slurm", "lsf"])
def test_a_plan_shows_the_scripts_and_writes_nothing(say, empty, tiny, monkeypatch, scheduler):
    (empty / "tiny.toml").write_text(tiny.read_text())
    (empty / "site.toml").write_text('account = "abc123"\ncpus_per_task = 2\n')
    monkeypatch.setenv("PATH", str(empty))
    before = sorted(empty.rglob("*"))
    found = say(f"study plan tiny.toml --out there --on {scheduler} --cluster site.toml --time 2h")
    assert found.code == 0, found.stderr
    assert f"there/{scheduler}/array-0.sh" in found.lines
    option = {"slurm": "#SBATCH --account=abc123", "lsf": "#BSUB -P abc123"}[scheduler]
    assert option in found.lines
    assert any(line.endswith(" --jobs 2") or " --jobs 2 " in line for line in found.lines)
    assert sorted(empty.rglob("*")) == before
    (empty / "site.toml").write_text("max_running = 1\ncpus_per_task = 3\n")
    found = say(f"study plan tiny.toml --out there --on {scheduler} --cluster site.toml --images-per-second 9")
    assert any(line.startswith("time ") and " with 3 at a time; basis: the speed given" in line for line in found.lines)


def test_work_does_not_mix_workers_with_processes_that_compute_together(say, empty, tiny, monkeypatch):
    StudyStore.create(empty / "small", parse(tiny.read_text()))
    assert "--jobs starts 1 or more workers in one process. It is 0" in say("study work small --jobs 0").stderr
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    found = say("study work small --jobs 2")
    assert found.code == 2
    assert "It is 2, in 2 process(es); leave it out where processes compute together" in found.stderr


def test_work_ends_at_once_when_nothing_is_left_for_it(say, empty, tiny, monkeypatch):
    store = StudyStore.create(empty / "small", parse(tiny.read_text()))
    assert store.claim(store.trials) == store.trials
    monkeypatch.setattr(study_work, "Crew", lambda *arguments: pytest.fail("no worker is started"))
    assert say("study work small --jobs 3").code == 0
    store.release(store.trials)


class FakeScheduler:
    """A queue whose only tasks wait until the test is told to go on."""

    name = "slurm"

    def __init__(self, live=0):
        self.num_submitted, self.live = 0, live

    def script(self, cluster, job):
        return job.label

    def submit(self, script, label):
        self.num_submitted += 1
        self.live = 1
        return "17"

    def queue(self, jobs):
        return Queue(pending=self.live, reason="Resources")

    def max_array(self):
        return 1000


@pytest.fixture
def followed(empty, tiny, capsys):
    """`followed(submit_only)`: run the study with the fake scheduler and return scheduler, outcome and what was said."""
    store = StudyStore.create(empty / "small", parse(tiny.read_text()))
    scheduler = FakeScheduler()

    def run(*, submit_only=False, plans=None):
        campaign = Campaign(store, scheduler, Cluster())
        done = study_cluster.run_on_cluster(campaign, store, plans, submit_only=submit_only)
        return done, capsys.readouterr().err

    run.scheduler, run.store = scheduler, store
    return run


def test_submitting_only(followed):
    done, said = followed(submit_only=True)
    assert not done
    assert "submitted  job 17; scripts and logs in " in said
    assert "`widestep study status` shows how far they are" in said
    done, said = followed(submit_only=True)
    assert not done
    assert "jobs       0 task(s) running, 1 waiting; they are followed, none is submitted" in said
    assert followed.scheduler.num_submitted == 1


def test_ctrl_c_stops_the_look_and_not_the_jobs(followed, monkeypatch):
    monkeypatch.setattr(study_cluster.time, "sleep", lambda seconds: signal.raise_signal(signal.SIGINT))
    from widestep.study.estimate import plans

    before = signal.getsignal(signal.SIGINT)
    done, said = followed(plans=plans(followed.store.trials))
    assert not done
    assert "waiting    1 task(s) in the queue: Resources" in said
    assert "No longer following. The jobs go on by themselves; the same command follows them again." in said
    assert signal.getsignal(signal.SIGINT) is before

"""A study's jobs on a scheduler that fails in every way (row 99): nothing is submitted twice, nothing waits for ever."""

import json
from dataclasses import replace

import pytest

from widestep.errors import EnvironmentFault, UsageError, WorkerLost
from widestep.lease import as_slot, lease_of_this_process
from widestep.study import campaign as module
from widestep.study.campaign import Campaign, planned_scripts
from widestep.study.cluster import Cluster, Queue


class FakeScheduler:
    """A scheduler whose queue the test writes; `failures` are raised in turn by what is asked."""

    name = "slurm"

    def __init__(self):
        self.submitted, self.failures, self.left = [], [], {}

    def _fail(self):
        if self.failures:
            raise self.failures.pop(0)

    def script(self, cluster, job):
        return f"{job.label} {job.num_tasks} x {job.num_slots}\n"

    def submit(self, script, label):
        self._fail()
        self.submitted.append(int(script.read_text().split()[1]))
        number = str(100 + len(self.submitted))
        self.left[number] = Queue(pending=self.submitted[-1])
        return number

    def queue(self, jobs):
        self._fail()
        found = [self.left.get(job, Queue()) for job in jobs]
        return Queue(sum(queue.pending for queue in found), sum(queue.running for queue in found))

    def max_array(self):
        return 1000


class Site:
    """A study of 12 trials on a cluster, with a clock that only moves when it is told to."""

    def __init__(self, store, fake, **settings):
        self.store, self.fake, self.seconds = store, fake, 0.0
        self.scheduler = FakeScheduler()
        self.settings = settings
        self.campaign = self.another()

    def another(self):
        """The same command given again."""
        return Campaign(self.store, self.scheduler, Cluster(**self.settings), lambda: self.seconds)

    def wait(self, seconds):
        """Look again and again for so long; says whether the study was over at the end."""
        done = False
        for _ in range(0, seconds, 5):
            self.seconds += 5
            done = self.campaign.step()
        return done

    def finish(self, *numbers):
        for number in numbers:
            self.fake.finish(self.store.run(self.store.trials[number]))

    def run_elsewhere(self, *numbers, host="elsewhere"):
        """Other hosts claim trials, and have just shown a sign of life."""
        claims = self.store.directory / "claims"
        claims.mkdir(exist_ok=True)
        for number in numbers:
            lease = replace(lease_of_this_process(1), host=host, process=100 + number)
            (claims / f"{self.store.trials[number].fingerprint}.1").write_bytes(as_slot(lease))


@pytest.fixture
def site(make, fake):
    return lambda **settings: Site(make(), fake, **settings)


def test_what_is_missing_is_submitted_once(site):
    found = site()
    found.finish(0, 1)
    assert found.campaign.submit() == ["101"]
    assert found.scheduler.submitted == [10]
    assert not found.wait(600)
    again = found.another()
    assert again.look().pending == 10  # the same command finds the jobs in the queue
    found.finish(*range(2, 12))
    assert found.wait(1)
    assert found.scheduler.submitted == [10]


def test_tasks_that_run_several_trials_are_fewer(site):
    found = site(cpus_per_task=5)
    found.campaign.submit()
    assert found.scheduler.submitted == [3]
    assert "x 5" in (found.campaign.directory / "array-0.sh").read_text()


def test_arrays_are_split_under_the_limit_of_the_site(site):
    found = site(max_array=5)
    assert found.campaign.submit() == ["101", "102", "103"]
    assert found.scheduler.submitted == [4, 4, 4]
    assert [path.name for path in sorted(found.campaign.directory.glob("*.sh"))] == [
        "array-0.sh",
        "array-1.sh",
        "array-2.sh",
    ]
    records = [json.loads(line) for line in (found.campaign.directory / "jobs.jsonl").read_text().splitlines()]
    assert [record["job"] for record in records] == ["101", "102", "103"]
    assert found.campaign.jobs() == ["101", "102", "103"]


def test_of_two_arrays_the_second_is_refused_and_submitted_by_the_next_command(site):
    found = site(max_array=6)
    submit = found.scheduler.submit

    def refuse_second(script, label):
        if found.scheduler.submitted:
            raise EnvironmentFault("The scheduler must answer sbatch. It said: job limit reached.")
        return submit(script, label)

    found.scheduler.submit = refuse_second
    with pytest.raises(EnvironmentFault, match="job limit"):
        found.campaign.submit()
    assert found.campaign.jobs() == ["101"]
    found.scheduler.submit = submit
    found.scheduler.left["101"] = Queue(running=6)
    found.campaign = found.another()
    found.run_elsewhere(*range(6))
    assert not found.wait(12)
    found.wait(80)
    assert found.scheduler.submitted[0] == 6
    assert sum(found.scheduler.submitted) <= 12 + 6


def test_tasks_that_run_but_have_not_claimed_yet_are_not_doubled(site):
    """Importing takes a minute on a busy node: the trials lie idle, but each has its task."""
    found = site()
    found.campaign.submit()
    found.scheduler.left["101"] = Queue(running=12)
    assert not found.wait(900)
    assert found.scheduler.submitted == [12]


def test_one_task_that_vanished_is_submitted_again(site, monkeypatch):
    """A node fails: eleven run on, one trial is free and nobody waits for it in the queue."""
    found = site()
    found.campaign.submit()
    found.scheduler.left["101"] = Queue(running=11)
    monkeypatch.setattr(module, "stacks", lambda trials, store: [[trial] for trial in trials])
    monkeypatch.setattr(type(found.store._claims), "_lives", lambda claims, lease: lease is not None)
    found.run_elsewhere(*range(11))
    found.wait(50)
    assert found.scheduler.submitted == [12]
    found.wait(30)
    assert found.scheduler.submitted == [12, 1]
    found.wait(300)
    assert found.scheduler.submitted == [12, 1]


def test_a_requeued_task_waits_and_is_not_doubled(site, monkeypatch):
    found = site()
    found.campaign.submit()
    found.scheduler.left["101"] = Queue(pending=1, running=11)
    monkeypatch.setattr(type(found.store._claims), "_lives", lambda claims, lease: lease is not None)
    found.run_elsewhere(*range(11))
    found.wait(600)
    assert found.scheduler.submitted == [12]


def test_all_jobs_vanish_after_some_progress(site):
    found = site()
    found.campaign.submit()
    found.scheduler.left.clear()
    found.finish(0, 1, 2)
    found.wait(12)
    assert found.scheduler.submitted == [12]
    found.wait(20)
    assert found.scheduler.submitted == [12, 9]


def test_jobs_that_get_nowhere_are_not_submitted_for_ever(site):
    found = site()
    found.campaign.submit()
    log = found.campaign.directory / "logs" / "101_0.out"
    log.write_text("module: command not found\n")
    found.scheduler.left.clear()
    with pytest.raises(WorkerLost, match=rf"no trial has come further since they were submitted; see .*{log.name}"):
        found.wait(60)
    assert found.scheduler.submitted == [12]
    found.campaign = found.another()  # somebody has mended it
    found.campaign.submit()
    assert found.scheduler.submitted == [12, 12]


def test_a_controller_that_is_down_for_hours_ends_nothing(site):
    found = site()
    found.campaign.submit()
    found.scheduler.failures = [EnvironmentFault("squeue: timed out")] * 500
    assert not found.wait(4_000)
    assert found.scheduler.submitted == [12]
    found.finish(*range(12))
    assert found.wait(1)  # what is done is read from the run directories


def test_failed_trials_do_not_run_again_by_themselves(site):
    found = site()
    found.campaign.submit()
    found.finish(*range(11))
    found.store.fail(found.store.trials[11], "bad data")
    found.scheduler.left.clear()
    assert found.wait(1)
    assert found.scheduler.submitted == [12]


def test_scripts_are_shown_without_writing_anything(make, tmp_path, monkeypatch):
    store = make()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM here
    shown = planned_scripts(store, "slurm", Cluster(cpus_per_task=4, max_running=2))
    assert [path.name for path in shown] == ["array-0.sh"]
    assert "#SBATCH --array=0-2%2\n" in next(iter(shown.values()))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_directory_that_no_script_can_name_is_refused(site, monkeypatch, tmp_path):
    found = site()
    odd = tmp_path / "a\n#BSUB -q other"
    odd.mkdir()
    monkeypatch.chdir(odd)
    with pytest.raises(UsageError, match="A job script names its directories"):
        found.campaign.submit()
    assert found.scheduler.submitted == []

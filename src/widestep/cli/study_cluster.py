"""`widestep study run --on slurm|lsf`: submit what is missing, follow it, and leave it alone when nobody wants to look."""

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from widestep.cli.progress import ProgressView, say
from widestep.errors import UsageError
from widestep.plan.runplan import RunPlan
from widestep.study.campaign import Campaign
from widestep.study.cluster import Cluster, read_cluster
from widestep.study.crew import ProgressMeter
from widestep.study.store import StudyStore

_POLL_SECONDS = 1.0
_MOST_JOBS_SAID = 5


def site_settings(
    on: str,
    file: Path | None,
    account: str | None,
    partition: str | None,
    time_limit: str | None,
    *,
    submit_only: bool = False,
    jobs: int | None = None,
) -> Cluster:
    """Return the settings of the site from a file and from options; raises UsageError where they do not belong."""
    options = {"account": account, "partition": partition, "time_limit": time_limit}
    given = [f"--{name.replace('_limit', '')}" for name, value in options.items() if value is not None]
    given += ["--cluster"] * (file is not None) + ["--submit-only"] * submit_only
    if on == "local" and given:
        raise UsageError(f"Settings of a cluster need --on slurm or --on lsf. Got {', '.join(given)} without it.")
    if on != "local" and jobs is not None:
        raise UsageError(
            "On a cluster the settings of a task say how many runs take place at a time. Leave --jobs out; set "
            "cpus_per_task or gpus_per_node in the file of --cluster."
        )
    return read_cluster(file, options)


def run_on_cluster(campaign: Campaign, store: StudyStore, run_plans: Mapping[str, RunPlan], *, submit_only: bool) -> bool:
    """Submit what is missing, unless jobs are at it already, and follow them; say whether the study is over."""
    with _asked_to_stop() as asked:
        num_left = _submitted(campaign, store)
        if submit_only and num_left:
            say(
                "The jobs work by themselves. `widestep study status` shows how far they are; the same command follows them."
            )
            return False
        return _followed(campaign, store, run_plans, asked)


def _submitted(campaign: Campaign, store: StudyStore) -> int:
    """Submit what is missing, unless jobs are at it already; returns how many trials are missing."""
    queue = campaign.look()
    num_again = 0 if queue.live else store.forget_failures()
    num_missing = sum(not state.finished for state in store.states())
    failed_before = f" ({num_again} of them failed before)" if num_again else ""
    say(f"study      {store.study.name}: {store.study.title}")
    say(f"trials     {len(store.trials)}, {num_missing} to run{failed_before}")
    if queue.live:
        say(f"jobs       {queue.running} task(s) running, {queue.pending} waiting; they are followed, none is submitted")
    elif num_missing:
        jobs = campaign.submit()
        more = f" and {len(jobs) - _MOST_JOBS_SAID} more" if len(jobs) > _MOST_JOBS_SAID else ""
        say(f"submitted  job {', '.join(jobs[:_MOST_JOBS_SAID])}{more}; scripts and logs in {campaign.directory}")
    return num_missing


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """Collect the signals that ask to stop looking; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _followed(campaign: Campaign, store: StudyStore, run_plans: Mapping[str, RunPlan], asked: Sequence[int]) -> bool:
    """Show the progress until the study is over, or until somebody asks to stop looking."""
    view, reason = ProgressView(ProgressMeter(store, run_plans), campaign.num_side_by_side(), None), ""
    try:
        while not (done := campaign.step()) and not asked:
            view.show()
            if campaign.queue.reason not in ("", reason) and not campaign.queue.running:
                reason = campaign.queue.reason
                say(f"waiting    {campaign.queue.pending} task(s) in the queue: {reason}")
            time.sleep(_POLL_SECONDS)
    finally:
        view.close()
    if not done:
        say("No longer following. The jobs go on by themselves; the same command follows them again.")
    return done

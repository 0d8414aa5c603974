"""Memory runs out: the kernel kills a process of the job's control group, and the message says so."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.processes
ROOT = Path("/sys/fs/cgroup")
LIMIT = 2 << 30


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of two GiB, of version 2 or 1."""
    is_new = (ROOT / "cgroup.controllers").exists()
    parent, limit = (ROOT, "memory.max") if is_new else (ROOT / "memory", "memory.limit_in_bytes")
    made = parent / f"widestep-{uuid.uuid4().hex[:8]}"
    try:
        made.mkdir()
        (made / limit).write_text(str(LIMIT))
    except OSError as error:
        if made.is_dir():
            made.rmdir()
        pytest.skip(f"no control group of memory can be made here: {error}")
    yield made
    made.rmdir()


def test_a_process_that_needs_too_much(job: Any, group: Path) -> None:  # row 14
    job.fail_at(process=1, step=9, how="eat memory", attempts=99)
    enter = (
        f"import os, runpy, sys; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid())); "
        "sys.argv = sys.argv[1:]; "
    )
    child = job.start(2, under=("-c", enter + "runpy.run_path(sys.argv[0], run_name='__main__')"), restarts=1)
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == 8, stderr
    assert stderr.splitlines()[-1] == (
        "widestep: All processes of a job must live. 1 restart(s) did not help: process 1 of 2 was killed at step 9 because "
        "memory ran out (limit 2.0 GiB); compute fewer images at once (--images-per-forward, --workers-per-forward) or give "
        "it more memory."
    )
    assert not os.path.exists(job.directory / "result.json")

"""What the other tests rely on when they run on several processes."""

import os

import pytest


@pytest.mark.xdist_group("slurm")
@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="all tests run in this process, one after the other")
def test_tests_of_a_group_share_a_process(request: pytest.FixtureRequest) -> None:
    """Two SLURMs at once give their jobs the same numbers, so that jobs meet at each other's ports.

    pytest-xdist 3.8 groups tests by a suffix that pytest 9.2 no longer shows it; nothing fails then, but groups fall apart.
    """
    assert request.node.nodeid.endswith("@slurm")

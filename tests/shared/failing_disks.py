"""Disks that are full, as a call that fails and as the operating system itself refuses."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


def disk_full(*_args: object, **_named: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def no_file_larger_than(num_bytes: int) -> Iterator[None]:
    """The operating system itself refuses to write more: EFBIG, after the part that fits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

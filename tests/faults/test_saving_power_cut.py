"""A power cut loses nothing that was said to be saved (row 10; G3).

A disk of its own (ext4 in a file) is written to; while the writer is stopped for a moment, what the disk holds is copied,
without what only the memory knows. That copy, mounted again, is what a machine finds after the cut.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modules_by_path import module_at

HERE = Path(__file__).parent
NUM_CUTS = 50 if os.environ.get("WIDESTEP_CHAOS") == "long" else 2
MOUNTS = ["defaults", "noauto_da_alloc", "data=writeback"]


def ran(*command: object) -> bool:
    return subprocess.run([str(word) for word in command], capture_output=True, check=False).returncode == 0


class Disk:
    """An ext4 file system in a file, mounted; or not, when that cannot be done here."""

    def __init__(self, place: Path, options: str) -> None:
        self.image, self.root, self.options = place / "disk", place / "mounted", options
        self.root.mkdir()
        with self.image.open("wb") as file:
            file.truncate(48 << 20)
        made = shutil.which("mkfs.ext4") is not None and ran("mkfs.ext4", "-q", "-F", self.image)
        self.works = made and os.geteuid() == 0 and ran("mount", "-o", f"loop,{options}", self.image, self.root)

    def after_a_cut(self, place: Path) -> Path:
        """Return the image as a disk would be found: what the device was given, not what the memory still holds."""
        target = place / "cut"
        shutil.copyfile(self.image, target)
        return target

    def close(self) -> None:
        ran("umount", self.root)


@pytest.fixture(params=MOUNTS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path, request.param)
    if not made.works:
        made.close()
        pytest.skip("needs root and loop devices, to mount a disk of its own")
    yield made
    made.close()


@pytest.fixture(scope="module")
def cut_program() -> Any:
    return module_at(HERE / "cut_program.py")


@pytest.mark.processes
def test_what_was_saved_is_there_after_a_power_cut(
    disk: Disk, cut_program: Any, program: Any, tmp_path: Path
) -> None:  # row 10
    rng = np.random.default_rng(sum(map(ord, disk.options)))
    found = tmp_path / "found"
    found.mkdir()
    told = tmp_path / "told"
    with told.open("wb") as file:
        command = [sys.executable, str(HERE / "cut_program.py"), str(disk.root / "run")]
        writer = subprocess.Popen(command, env=program.environment(), stdout=file, stderr=subprocess.PIPE)
    try:
        for _ in range(NUM_CUTS):
            before = len(told.read_bytes().split())
            while len(told.read_bytes().split()) <= before:
                assert writer.poll() is None
                time.sleep(0.01)
            time.sleep(float(rng.uniform(0, 0.15)))
            writer.send_signal(signal.SIGSTOP)
            certain = int(told.read_bytes().split()[-1])
            image = disk.after_a_cut(tmp_path)
            writer.send_signal(signal.SIGCONT)
            assert ran("mount", "-o", "loop", image, found)
            try:
                assert cut_program.newest_step(found / "run") >= certain
            finally:
                assert ran("umount", found)
    finally:
        writer.kill()
        writer.communicate()

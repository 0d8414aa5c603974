"""The execution: where and how fast a recipe runs. Nothing in it may change a weight."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from widestep.plan.cadence import Cadence, CadenceField
from widestep.plan.fields import Fields
from widestep.plan.services import ServicesField
from widestep.plan.timespan import TimeField


class Execution(Fields):
    """Changing any field changes no byte of the trained weights, of the logged losses or of the rates."""

    out: Path | None = None
    """Directory of the run; everything is written inside it. Empty: runs/RECIPE-FINGERPRINT, found again by settings."""
    processes: int = Field(default=1, ge=1, le=4096)
    """Processes to start on this machine. Under torchrun, srun or another launcher the launcher's number counts."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Kind of device: auto takes a GPU when there is one."""
    loader_threads: int = Field(default=2, ge=0, le=256)
    """Threads of each process that read and decode images; 0 reads in the main thread."""
    gib_in_memory: float = Field(default=2.0, ge=0)
    """Keep a data set decoded on the device, when its images are used whole (not cropped at random) and take at most so many
    GiB."""
    checkpoint_every: CadenceField = Cadence(0, "auto")
    """How often to save: `auto` (so often that it takes 1 % of the time, at least every 10 minutes), `60s` (seconds of wall
    time), `200st` (steps) or `1ep` (epochs)."""
    keep_checkpoints: int = Field(default=2, ge=1, le=1_000_000)
    """How many of the newest saved states to keep, besides the best and the final weights."""
    restarts: int = Field(default=3, ge=0, le=1000)
    """How many crashes in a row, each leaving training no further than the one before, are answered by starting the
    processes again from the last checkpoint; 0 for none. Our own launcher does so, not torchrun or srun."""
    hang_timeout: TimeField = 300.0
    """How long a process may show no sign of life before it is named, ended and started again: 90s, 5m, 1h."""
    join_timeout: TimeField = 300.0
    """How long the processes of another launcher wait for one another at the start."""
    time_limit: TimeField | None = None
    """Stop and save so early that the command is over after this time: 90s, 30m, 2h, 1d. Empty: under SLURM the end of the
    job."""
    check_replicas_every: int = Field(default=100, ge=1)
    """Steps between two comparisons of weights, optimizer and statistics of all processes; every save makes one, too."""
    log_every: int = Field(default=1, ge=1)
    """Steps between two records in metrics.jsonl and ledger.jsonl; the last step of an epoch is always recorded."""
    tensorboard: bool = True
    """Also write TensorBoard events, when the package tensorboard is installed."""
    log_to: ServicesField = ()
    """Also send rate, losses and accuracy to tracking services: `wandb`, `mlflow`, or both with a comma. They write into the
    run's directory and open no connection, unless you have configured one (WANDB_MODE, MLFLOW_TRACKING_URI)."""
    compare_batchnorm: bool = False
    """At the end, evaluate the final weights under every policy of batchnorm_running and write batchnorm.json."""
    digests: bool = False
    """Write a digest of every weight and gradient tensor at every step to digests.jsonl, for `widestep diff`."""

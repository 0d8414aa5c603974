"""The errors a user can meet, each with the exit code that every process of a job returns for it.

A message says what must hold, what was given and what to do, in one or two sentences. The command line prints it on one
line; a traceback is printed only for errors that are not of these classes, because those are our own bugs.
"""


class WidestepError(Exception):
    """Base of every error that is explained to the user; `exit_code` is the process's exit status."""

    exit_code = 1


class UsageError(WidestepError):
    """The command line, a recipe or a study file asks for something that cannot be (exit code 2)."""

    exit_code = 2


class DataError(WidestepError):
    """A data set is missing, empty, damaged or not the one the run began with (exit code 3)."""

    exit_code = 3


class NumericError(WidestepError):
    """A loss or gradient is no longer finite, or replicas have drifted apart (exit code 4)."""

    exit_code = 4


class EnvironmentFault(WidestepError):
    """The machine cannot do what was asked: disk, port, device, rendezvous (exit code 5)."""

    exit_code = 5


class StoreError(WidestepError):
    """A checkpoint or a record on disk is damaged or belongs to something else (exit code 6)."""

    exit_code = 6


class DirectoryInUse(WidestepError):
    """Another live process is working in this run directory (exit code 7)."""

    exit_code = 7


class WorkerLost(WidestepError):
    """A process of the job died or hangs and cannot be replaced (exit code 8)."""

    exit_code = 8


class Stopped(WidestepError):
    """The run was asked to stop, has saved its state and can be continued by the same command (exit code 75)."""

    exit_code = 75

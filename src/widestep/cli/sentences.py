"""Every error as an exit code and a sentence, also those that no part of the program has explained."""

import errno
import sys
import traceback
from pathlib import Path

from cyclopts import CycloptsError, UnusedCliTokensError

from widestep.errors import EnvironmentFault, Stopped, UsageError, WidestepError
from widestep.workers.launched import Launch
from widestep.workers.launcher import Body
from widestep.workers.pulse import Pulse

DEBUG = "--debug"
_NO_MEMORY = ("can't allocate memory", "could not create a primitive", "failed to map segment")
"""As torch and the loader of its libraries say it."""


def explaining(body: Body) -> Body:
    """Let every process of a job explain its errors; those that are nobody's fault but ours stay what they are.

    What is explained ends the job; anything else is a crash, after which processes are started again.
    """

    def explained_body(launch: Launch, pulse: Pulse) -> int:
        try:
            return body(launch, pulse)
        except WidestepError:
            raise
        except Exception as error:
            if DEBUG in sys.argv:
                traceback.print_exc()
            code, sentence = explained(error)
            if code == WidestepError.exit_code:
                raise
            failure = WidestepError(sentence)
            failure.exit_code = code
            raise failure from error

    return explained_body


def explained(error: BaseException) -> tuple[int, str]:
    """Return exit code and sentence of an error; what no part of the program has explained is often the machine's."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        words = ", ".join(map(repr, error.unused_tokens))
        sentence = f"A command takes only the words that its --help names. Got {words} besides; leave that out."
        return UsageError.exit_code, sentence
    if isinstance(error, CycloptsError):
        return UsageError.exit_code, str(error).replace("Did you mean", "Perhaps you meant") + " See --help."
    if isinstance(error, WidestepError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return Stopped.exit_code, "Stopped at once. What was saved is whole; the same command goes on from there."
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UsageError.exit_code, f"A file must have a name that the file system takes. {error.filename!r} has none."
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return EnvironmentFault.exit_code, f"The system refused something. {what}. Mend it and give the same command again."
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return (
            EnvironmentFault.exit_code,
            "Threads must be able to start. This one cannot: ask for fewer with --loader-threads, or raise the limit of "
            "processes (ulimit -u).",
        )
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return EnvironmentFault.exit_code, "There must be memory for what was asked. There was too little; ask for less."
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("widestep"):
        package = error.name.partition(".")[0]
        return (
            UsageError.exit_code,
            f"widestep needs the package {package}, which is not installed. Run: pip install widestep.",
        )
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return WidestepError.exit_code, (
        f"Something unexpected happened, which is a fault of widestep: {type(error).__name__}: {error} "
        f"({Path(frame.filename).name}, line {frame.lineno}). Add {DEBUG} for the whole story."
    )

"""Commands of a scheduler that may fail for a while: controllers are restarted, networks are slow, answers are lost."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from widestep.errors import EnvironmentFault

_ANSWER_SECONDS = 60.0
_PAUSES = (1.0, 4.0, 15.0, 60.0)
"""Between attempts, in seconds."""


class Commands:
    """Runs commands, again and again with longer pauses when they fail.

    Parameters
    ----------
    sleep
        Waits for some seconds.
    """

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep

    def said(self, words: list[str]) -> str:
        """Return what a command says.

        Raises
        ------
        EnvironmentFault
            When it is not there, or still fails after all attempts.
        """
        for pause in _PAUSES:
            try:
                return _run(words)
            except subprocess.SubprocessError:
                self._sleep(pause)
        try:
            return _run(words)
        except subprocess.SubprocessError as error:
            raise _failure(words, error) from error

    def submitted(
        self,
        words: list[str],
        directory: Path,
        number_in: Callable[[str], str],
        search: list[str],
        stdin: Path | None = None,
    ) -> str:
        """Submit a job in a directory and return its number.

        Parameters
        ----------
        number_in
            Finds the number in the answer.
        search
            A command that lists the numbers of jobs that carry this submission's name: an attempt that seemed to fail may
            have gone well.
        """
        error: subprocess.SubprocessError | None = None
        for pause in (0.0, *_PAUSES):
            self._sleep(pause)
            if error is not None and (found := self.said(search).split()):
                return found[0]
            try:
                number = number_in(_run(words, directory, stdin))
            except subprocess.CalledProcessError as failed:
                error = failed
                if _is_refusal(failed):
                    break
            except subprocess.TimeoutExpired as late:
                error = late
            else:
                if number.isdecimal():
                    return number
                raise EnvironmentFault(
                    f"{words[0]} must say the number of the job. It said {number!r}; see {directory}/jobs."
                )
        assert error is not None
        raise _failure(words, error)


def _run(words: list[str], directory: Path | None = None, stdin: Path | None = None) -> str:
    try:
        text = None if stdin is None else stdin.read_text(encoding="utf-8", errors="surrogateescape")
        done = subprocess.run(
            words,
            cwd=directory,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_SECONDS,
            check=True,
        )
    except OSError as error:
        raise EnvironmentFault(
            f"A study on a cluster is submitted where the scheduler's commands are. {words[0]} cannot be run: "
            f"{error.strerror}. Log in to a node that has it, or leave --on out."
        ) from None
    return done.stdout


_REFUSALS = ("invalid", "not permitted", "violates", "unrecognized", "exceeds", "denied", "not available", "too large")


def _is_refusal(error: subprocess.CalledProcessError) -> bool:
    """Say whether the scheduler answered that it does not want the job: asking again changes nothing."""
    words = str(error.stderr).lower()
    return any(refusal in words for refusal in _REFUSALS) and "socket" not in words and "connect" not in words


def _failure(words: list[str], error: subprocess.SubprocessError) -> EnvironmentFault:
    if isinstance(error, subprocess.TimeoutExpired):
        why = f"It did not answer within {_ANSWER_SECONDS:g} s"
    else:
        said = str(getattr(error, "stderr", "")).strip().splitlines()
        why = f"It said: {said[-1]}" if said else f"It failed: {error}"
    return EnvironmentFault(
        f"The scheduler must answer {words[0]}. {why.rstrip('.')}. Mend it, then give the same command again."
    )

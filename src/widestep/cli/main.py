"""The program `widestep`: its commands, and how errors reach the user.

Commands are loaded when they are used, so that help never waits for them.
"""

import inspect
import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App

import widestep
from widestep.cli.sentences import DEBUG, explained
from widestep.cli.streams import settle_streams
from widestep.errors import EnvironmentFault
from widestep.records.environment import require_torch
from widestep.workers.launched import die_with_parent, is_launched, is_ours

_COMPUTING = {("train",), ("eval",), ("verify",), ("bench",), ("study", "run"), ("study", "work"), ("study", "retry")}
_LONGEST_LINE = 2_000

app = App(
    name="widestep",
    version=widestep.__version__,
    help="Train image classifiers with very wide optimizer steps: the same bytes on any number of processes.",
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.command("widestep.cli.train:train", name="train", help="Train one recipe into one run directory, or go on with it.")
app.command("widestep.cli.evaluate:evaluate", name="eval", help="Evaluate a run's weights: exact integer counts.")
app.command("widestep.cli.lr:lr", name="lr", help="Print or plot the learning rate at every step, without training.")
app.command(
    "widestep.cli.verify:verify",
    name="verify",
    help="Prove for your recipe, here, that processes and a kill change no byte.",
)
app.command("widestep.cli.diff:diff", name="diff", help="Compare two runs to the byte, or two recipes in words.")
app.command("widestep.cli.bench:bench", name="bench", help="Measure how fast a recipe trains here, and what limits it.")
app.command("widestep.cli.doctor:doctor", name="doctor", help="Say whether training can work here, and what to mend.")
app.command("widestep.cli.report:report", name="report", help="Make the page, figures and findings of a study or of runs.")

app.command("widestep.cli.certify:certify", name="certify", help="Certify that a setting preserves another's accuracy.")

study = App(name="study", help="Answer a question with many runs: plan, run, look, retry.")
for module, name, purpose in (
    ("study", "run", "Run what is missing of a study, then report."),
    ("study_plan", "plan", "Show trials, steps and predicted time; write nothing."),
    ("study_status", "status", "Show the state of every trial."),
    ("study", "retry", "Try failed trials again, and whatever else is left."),
    ("study_work", "work", "Join a study as one more worker process."),
):
    study.command(f"widestep.cli.{module}:{name}", name=name, help=purpose)
app.command(study)

data = App(name="data", help="Look at a data set, pack it so that it loads fast, and see its order.")
for name, purpose in (
    ("check", "Decode every image; list what is damaged."),
    ("pack", "Write a data set as a few large files that load fast."),
    ("order", "Say which images every worker takes at a step."),
):
    data.command(f"widestep.cli.data:{name}_", name=name, help=purpose)
data.command("widestep.cli.data_bench:bench_", name="bench", help="Measure how fast it loads here, and what limits it.")
app.command(data)

recipes = App(name="recipes", help="List, show and explain named recipes and their fields.")
for name, purpose in (
    ("list", "Names and one line each."),
    ("show", "All fields of a recipe, with source and what was verified."),
    ("explain", "A recipe in sentences, with the rate at every turn."),
    ("fields", "What every field of a recipe and of an execution means."),
):
    recipes.command(f"widestep.cli.recipes:{name}_", name=name, help=purpose)
app.command(recipes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code: see the README for the meaning of the codes."""
    die_with_parent()
    settle_streams()
    code = run(sys.argv[1:] if arguments is None else arguments)
    if is_launched():  # torch's communication threads may abort a process that is taken down in the ordinary way
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; an error becomes one line on stderr, with `--debug` after its traceback."""
    try:
        return _run([word for word in arguments if word != DEBUG])
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is becomes a sentence
        if DEBUG in arguments:
            traceback.print_exc()
        code, sentence = explained(error)
        if not (isinstance(error, KeyboardInterrupt) and is_ours()):
            _complain(sentence)
        return code


def _run(arguments: list[str]) -> int:
    if not {"--help", "-h"}.isdisjoint(arguments):
        _explain_in_full(arguments)
    else:
        _require_working_directory()
        if tuple(arguments[: 2 if arguments[:1] == ["study"] else 1]) in _COMPUTING and "--dry-run" not in arguments:
            require_torch()
    result = app(arguments, exit_on_error=False, print_error=False)
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _require_working_directory() -> None:
    """Refuse to begin in a directory that has been deleted: libraries would abort."""
    try:
        os.getcwd()
    except OSError as error:
        raise EnvironmentFault(f"The working directory must exist. {error.strerror}; cd to one that does.") from None


def _explain_in_full(arguments: Sequence[str]) -> None:
    """Let a command's own help be all it says about itself; a list of commands has one line each and loads none of them."""
    command = app.parse_commands([word for word in arguments if not word.startswith("-")])[1][-1]
    if command.default_command is not None:
        command.help = inspect.cleandoc(command.default_command.__doc__ or "")


def _complain(sentence: str) -> None:
    """Print one line, whatever names and paths the sentence quotes."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in sentence).split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 2 :]}"
    if line:  # what was said already is not said again
        print(f"widestep: {line}", file=sys.stderr, flush=True)

"""The program, as `widestep` or `python -m widestep`."""

import signal
import sys

_STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Run the command line; signals stop it in order from the first moment, while torch is imported, as Ctrl-C does.

    A command that has something to save handles them itself from then on. What was told to be ignored stays so (nohup).
    """
    for number in _STOPPING:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        from widestep.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("widestep: Stopped at once, before anything was begun.\n")
        sys.exit(75)


if __name__ == "__main__":
    main()

"""Run the command line as `python -m widestep`."""

from widestep.cli.main import main

if __name__ == "__main__":
    main()

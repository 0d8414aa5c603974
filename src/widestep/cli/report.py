"""`widestep report`: from a study or runs on disk to a page, figures and findings, without torch."""

from pathlib import Path

from widestep.errors import UsageError


def report(directories: list[Path], *, out: Path | None = None, poster: bool = False) -> int:
    """Make the report of a study's directory, or of one or more run directories.

    For example:
      widestep report studies/poster-digits
      widestep report studies/poster-digits --poster
      widestep report runs/one runs/two --out comparison

    Parameters
    ----------
    directories
        One study's directory, or run directories.
    out
        Where the report of runs goes; a study's goes into the study.
    poster
        Draw the study as an A0 poster, too: report/poster.pdf and .svg; poster.json says where every number comes from.
    """
    from widestep.report.build import build_report, build_run_report, summary_lines

    if len(directories) == 1 and (directories[0] / "study.toml").exists():
        if out is not None:
            raise UsageError(f"A study's report lies in the study, {directories[0]}/report; leave out --out. Got {out}.")
        summary = build_report(directories[0], with_poster=poster)
    elif poster:
        raise UsageError(f"A poster is about one study. {directories[0]} holds none; give the directory of a study.")
    else:
        summary = build_run_report(directories, out or Path("report"))
    for line in summary_lines(summary):
        print(line)
    return 0

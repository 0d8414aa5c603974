"""What a study's poster says: every sentence with the sources of its numbers, drawn from the findings and nothing else."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import widestep
from widestep.plan.plain import plain
from widestep.report.claims import Finding
from widestep.report.cost import ENERGY, duration
from widestep.report.page import p_text, signed
from widestep.report.plotted import FigureData
from widestep.report.results import Diverged, Missing, SeedRun, StudyResults
from widestep.report.sequential import paired_words

Style = Literal["body", "strong", "small", "bullet"]
MOST_FIGURES = 8


@dataclass(frozen=True)
class Source:
    """Where a text on the poster comes from: a file beside the poster, and the place in it."""

    file: str
    at: tuple[str | int, ...]
    text: str


@dataclass(frozen=True)
class Said:
    """A sentence on the poster with the source of every number and every word of others in it."""

    text: str
    sources: list[Source] = field(default_factory=list)
    style: Style = "body"

    def record(self) -> dict[str, Any]:
        """Return the sentence for poster.json."""
        return {"text": self.text, "sources": [{**vars(one), "at": list(one.at)} for one in self.sources]}


@dataclass(frozen=True)
class Shown:
    """A finding on the poster: the claim, its verdict, the effect with its interval, how it was tested, and its record."""

    claim: Said
    verdict: str
    effect: Said
    test: Said
    finding: Finding


@dataclass(frozen=True)
class Block:
    """A titled part of the poster."""

    title: str
    items: list[Said | Shown]


@dataclass(frozen=True)
class Poster:
    """Everything that a poster shows, in its order; figures stand in the middle."""

    title: Said
    subtitle: Said
    left: list[Block]
    right: list[Block]
    figures: list[tuple[FigureData, Said]]
    footer: list[Said]
    left_out: list[str]

    def texts(self) -> list[Said]:
        """Return every sentence."""
        said = [self.title, self.subtitle, *(caption for _, caption in self.figures), *self.footer]
        for item in (item for block in (*self.left, *self.right) for item in block.items):
            said += [item] if isinstance(item, Said) else [item.claim, item.effect, item.test]
        return said


class Facts:
    """The files that a poster may quote; a sentence is told with the places that its words come from."""

    def __init__(self, files: Mapping[str, Any]) -> None:
        self._files = files

    def tell(self, template: str, style: Style = "body", **places: tuple[Any, ...]) -> Said:
        """Fill a template's fields from files.

        Parameters
        ----------
        places
            For each field the file, the keys that lead to the value, and, last, how the value is written.
        """
        sources = {name: self._source(place) for name, place in places.items()}
        text = template.format(**{name: source.text for name, source in sources.items()})
        return Said(text, list(sources.values()), style)

    def _source(self, place: tuple[Any, ...]) -> Source:
        file, *at, written = place
        value = self._files[file]
        for key in at:
            value = value[key]
        return Source(file, tuple(at), written(value))


def summary_record(results: StudyResults, study_text: str) -> dict[str, Any]:
    """Return the study in numbers, for summary.json."""
    study = results.study
    brief = [{name: value for name, value in asdict(one).items() if name != "tried"} for one in results.searches]
    searched = {"searches": brief} if brief else {}
    return {
        "study": study.name,
        "study_sha256": hashlib.sha256(study_text.encode()).hexdigest(),
        "num_trials": results.num_wanted,
        "num_complete": results.count(SeedRun),
        "num_diverged": results.count(Diverged),
        "num_missing": results.count(Missing),
        "num_settings": len({cell.cell.fingerprint(0) for cells in results.arms.values() for cell in cells}),
        "num_seeds": len(study.seeds),
        "num_claims": len(study.claims),
        "margin": study.margin,
        "level": study.level,
        "collapse_below": study.collapse_below,
        "environment": results.environment,
        "widestep": widestep.__version__,
    } | searched


def poster(
    results: StudyResults, findings: Sequence[Finding], figures: Sequence[FigureData], files: Mapping[str, Any]
) -> Poster:
    """Put a study's poster together.

    Parameters
    ----------
    files
        What the poster may quote, by file name: findings.json, summary.json, cost.json and study.toml as plain values.
    """
    facts = Facts(files)
    chosen = [one for one in figures if one.kind != "differences"] or list(figures)
    if len(chosen) > MOST_FIGURES:
        chosen = [one for one in chosen if one.kind != "layout"]
    extra = chosen[MOST_FIGURES:]
    captions = [(one, _caption(one)) for one in chosen[:MOST_FIGURES]]
    return Poster(
        title=facts.tell("{title}", title=("study.toml", "title", _words)),
        subtitle=_subtitle(facts, "up to " if results.study.sequential else ""),
        left=[_question(facts, results), _method(facts, results), _limits(facts, results, files)],
        right=[_findings(facts, findings, _late(results)), _conclusions(facts, findings)],
        figures=captions,
        footer=_footer(facts, files),
        left_out=[f"{one.heading} (in the report)" for one in extra],
    )


def _words(value: Any) -> str:
    return plain(str(value))


def _number(value: float) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"


def _percent(value: float) -> str:
    return f"{100 * value:g}"


def _caption(figure: FigureData) -> Said:
    source = Source(f"figures/{figure.file_name}.csv", (), f"{figure.heading}. {figure.title}")
    return Said(source.text, [source], "strong")


def _subtitle(facts: Facts, up_to: str) -> Said:
    return facts.tell(
        f"Study {{name}}: {{complete}} of {{trials}} runs complete, {{settings}} settings × {up_to}{{seeds}} seeds",
        name=("summary.json", "study", _words),
        complete=("summary.json", "num_complete", _number),
        trials=("summary.json", "num_trials", _number),
        settings=("summary.json", "num_settings", _number),
        seeds=("summary.json", "num_seeds", _number),
    )


def _question(facts: Facts, results: StudyResults) -> Block:
    claims, late = results.study.claims, _late(results)
    heading = "Claims that were declared before any result" + (", unless they say so:" if late else ":")
    items: list[Said | Shown] = [Said(heading if claims else "No claim was made.")]
    for name in claims:
        text = ("study.toml", "claims", name, "text", _words)
        template = "{name}: {text}" + late.get(plain(name), "")
        items.append(facts.tell(template, "bullet", name=_key("claims", name), text=text))
    return Block("Question", items)


def _late(results: StudyResults) -> dict[str, str]:
    """Return what must be said of claims that were declared, or given other settings, once results could be seen."""
    changed = {plain(name): " (settings changed after results)" for one in results.amendments for name in one.changed_claims}
    added = {plain(name): " (added after results)" for one in results.amendments for name in one.added_claims}
    return {**changed, **added}


def _key(table: str, name: str) -> tuple[Any, ...]:
    """Return the place of a claim or arm, written as its name, which is the last key of the place."""
    return ("study.toml", table, name, lambda _: plain(name))


def _method(facts: Facts, results: StudyResults) -> Block:
    study = results.study
    items: list[Said | Shown] = [
        facts.tell("All arms start from the recipe {recipe}.", recipe=("study.toml", "recipe", _words)),
    ]
    for name, arm in study.arms.items():
        place = ("study.toml", "arms", name, "label", _words) if arm.label else _key("arms", name)
        items.append(facts.tell("{label}", "bullet", label=place))
    items += [
        facts.tell(
            paired_words(study),
            seeds=("summary.json", "num_seeds", _number),
            level=("summary.json", "level", _percent),
        ),
        facts.tell(
            "Two accuracies count as equal within {margin} points (two one-sided tests), which was declared in advance.",
            margin=("summary.json", "margin", _number),
        ),
    ]
    return Block("Method", items)


def _findings(facts: Facts, findings: Sequence[Finding], late: Mapping[str, str]) -> Block:
    return Block("Findings", [_shown(facts, index, one, late.get(one.claim, "")) for index, one in enumerate(findings)])


def _shown(facts: Facts, index: int, one: Finding, remark: str) -> Shown:
    at = ("findings.json", index)
    claim = facts.tell("{name}: {text}" + remark, "strong", name=(*at, "claim", _words), text=(*at, "text", _words))
    if one.effect is None:
        effect = Said("no pair of runs is complete")
    elif one.interval is None:
        effect = facts.tell("{effect} {unit}", effect=(*at, "effect", signed), unit=(*at, "unit", _words))
    else:
        effect = facts.tell(
            "{effect} {unit} [{low}, {high}]",
            effect=(*at, "effect", signed),
            unit=(*at, "unit", _words),
            low=(*at, "interval", 0, signed),
            high=(*at, "interval", 1, signed),
        )
    if one.p is None:
        test = facts.tell("n = {n}: no test", "small", n=(*at, "n", _number))
    elif one.verdict == "contradicted":  # the claim's own p is large: what is shown has another
        shown = "" if one.p_shown is None else "; what is shown instead: adjusted p {p}"
        p = {} if one.p_shown is None else {"p": (*at, "p_shown", p_text)}
        test = facts.tell("n = {n}" + shown, "small", n=(*at, "n", _number), **p)
    else:
        template = "n = {n}, adjusted p {p}"
        places: dict[str, tuple[Any, ...]] = {"n": (*at, "n", _number), "p": (*at, "p_adjusted", p_text)}
        if one.verdict == "undecided" and one.minimum_detectable_difference is not None:
            template += "; detectable: {least} {unit}"
            places |= {"least": (*at, "minimum_detectable_difference", _two), "unit": (*at, "unit", _words)}
        test = facts.tell(template, "small", **places)
    return Shown(claim, one.verdict, effect, test, one)


def _two(value: float) -> str:
    return f"{value:.2f}"


_SAID: dict[str, str] = {
    "supported": "Supported here: {name}.",
    "contradicted": "Contradicted here: {name}.",
    "undecided": "Left open: {name}.",
}
_WHY = {
    "reversed": " The opposite is shown.",
    "equivalent": " The difference is shown to be smaller than the margin.",
    "beyond": " The whole interval lies beyond the margin.",
    "few": " Too few pairs of runs are complete.",
}


def _conclusions(facts: Facts, findings: Sequence[Finding]) -> Block:
    """Say for every claim what its finding allows to be said, the decided ones first."""
    order = sorted(range(len(findings)), key=lambda index: list(_SAID).index(findings[index].verdict))
    items: list[Said | Shown] = []
    for index in order:
        template = _SAID[findings[index].verdict] + _WHY.get(findings[index].why, "")
        name: Callable[[str], str] = lambda text: plain(text).rstrip(".")  # noqa: E731
        items.append(facts.tell(template, "bullet", name=("findings.json", index, "text", name)))
    return Block("Conclusions", items or [Said("No claim was made, so nothing is concluded.")])


def _limits(facts: Facts, results: StudyResults, files: Mapping[str, Any]) -> Block:
    items: list[Said | Shown] = [Said("The verdicts hold for these recipes on these data.", style="bullet")]
    for name, words in (
        ("num_missing", "{count} of the runs have no result yet; verdicts may change."),
        ("num_diverged", "{count} diverged: counted, in no mean."),
    ):
        if files["summary.json"][name]:
            items.append(facts.tell(words, "bullet", count=("summary.json", name, _number)))
    audits = [index for index, record in enumerate(files["findings.json"]) if record["claim"] == "audit"]
    items += [facts.tell("Audit: {text}.", "bullet", text=("findings.json", index, "text", _words)) for index in audits]
    items += [
        facts.tell("{note}", "bullet", note=("study.toml", "notes", index, _words))
        for index in range(len(results.study.notes))
    ]
    return Block("Limits", items)


def _footer(facts: Facts, files: Mapping[str, Any]) -> list[Said]:
    environment = files["summary.json"]["environment"]
    named = [name for name in ("processor", "device", "torch", "python", "data", "model") if name in environment]
    template = "; ".join(f"{name} {{{name}}}" for name in named) or "not recorded"
    places = {name: ("summary.json", "environment", name, ", ".join) for name in named}
    lines = [facts.tell(f"Environment: {template}.", "small", **places)]
    if files["cost.json"]["total"]["num_recorded"]:
        seconds = ("cost.json", "elapsed_seconds", duration)
        lines.append(
            facts.tell(
                "Cost: {hours} device-hours, {images} training images, {elapsed} from first start to last end; "
                f"energy {ENERGY}.",
                "small",
                hours=("cost.json", "total", "device_hours", lambda value: f"{value:.3g}"),
                images=("cost.json", "total", "images", _number),
                elapsed=seconds,
            )
        )
    lines.append(
        facts.tell(
            "Made by widestep {version} from study {name}, SHA-256 of study.toml {digest}. Where every number comes from: "
            "poster.json.",
            "small",
            version=("summary.json", "widestep", _words),
            name=("summary.json", "study", _words),
            digest=("summary.json", "study_sha256", lambda text: text[:16]),
        )
    )
    return lines


def poster_record(shown: Poster) -> dict[str, Any]:
    """Return where every text of the poster comes from, for poster.json; the files lie beside it, study.toml above."""
    return {
        "page": "A0 landscape, 1189 mm x 841 mm",
        "texts": [said.record() for said in shown.texts()],
        "figures": [{"figure": data.heading, "numbers": f"figures/{data.file_name}.csv"} for data, _ in shown.figures],
        "left_out": shown.left_out,
    }

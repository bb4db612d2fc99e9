"""Two experiments compared: their final stages' scores, the settings in which they differ, what each has taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from multitask.errors import UserError
from multitask.experiment.differences import ABSENT
from multitask.experiment.results import summary
from multitask.experiment.stage_job import node_key
from multitask.measure.compare import Comparison, adjusted
from multitask.report.blocks import Cell, ReportTable, Section
from multitask.report.cost import Cost, Spent, cost_document
from multitask.report.differing import settings_apart, words
from multitask.report.numbers import DASH, SCORES, duration, kind_of, number, ordered, quantity, signed, spread
from multitask.report.reading import Evidence, Run, read_evidence
from multitask.report.tables import LEAST_SCALE
from multitask.storage.storage import Storage
from multitask.storage.uris import join

SURE = 0.05  # a difference with a smaller p is bold
Compare = Callable[[str, str], Sequence[Comparison]]  # two bundles, the baseline first


@dataclass(frozen=True)
class Baseline:
    """The experiment that another one is compared with."""

    uri: str
    compare: Compare
    """Paired differences of two bundles, given as EXPERIMENT/STAGE; raises UserError where there can be none."""


@dataclass(frozen=True)
class Pair:
    """A final stage of each experiment, under seeds of one place."""

    baseline: Run
    run: Run

    @property
    def name(self) -> str:
        names = dict.fromkeys((self.baseline.name, self.run.name))
        return " / ".join(names)

    @property
    def seeds(self) -> str:
        return " / ".join(dict.fromkeys(str(run.row["seed"]) for run in (self.baseline, self.run)))


@dataclass(frozen=True)
class Difference:
    """A metric of a pair; `compared` where both bundles have answered the same rows."""

    pair: Pair
    metric: str
    compared: Comparison | None

    @property
    def values(self) -> tuple[float | None, float | None]:
        if self.compared:
            return self.compared.baseline, self.compared.value
        return self.pair.baseline.metrics.get(self.metric), self.pair.run.metrics.get(self.metric)

    @property
    def size(self) -> float | None:
        before, after = self.values
        return None if before is None or after is None else after - before


@dataclass(frozen=True)
class Against:
    """An experiment against another one, the baseline.

    missing: why some pairs have no intervals, a line each.
    """

    baseline: Evidence
    evidence: Evidence
    differences: list[Difference]
    missing: list[str]

    @property
    def names(self) -> tuple[str, str]:
        """What both are called: by their experiments' names where these differ."""
        names = self.baseline.results["experiment"], self.evidence.results["experiment"]
        return names if names[0] != names[1] else (self.baseline.place, self.evidence.place)

    def to_json(self) -> dict[str, Any]:
        return {
            "experiment": self.baseline.place,
            "scores": [_to_json(one) for one in self.differences],
            "settings": {key: [*values] for key, values in settings_apart(self.baseline, self.evidence).items()},
            "cost": cost_document(self.baseline.spent, None),
        }


def against(evidence: Evidence, given: Baseline) -> Against:
    """Compares an experiment with a baseline; a pair of stages whose bundles cannot be compared has values and no
    intervals.

    Raises UserError where both are one experiment, and where they have no final stages in common.
    """
    baseline = read_evidence(Storage(given.uri))
    if evidence.place == baseline.place:
        raise UserError(f"--against '{baseline.place}': the experiment itself; name another one")
    pairs = paired(baseline, evidence)
    if not pairs:
        have = "; ".join(f"{one.place} has {', '.join(one.final()) or 'none'}" for one in (baseline, evidence))
        raise UserError(f"--against '{baseline.place}': no finished final stage in common: {have}")
    found: dict[int, list[Comparison]] = {}
    missing = []
    for at, pair in enumerate(pairs):
        try:
            found[at] = [*given.compare(_bundle(baseline, pair.baseline), _bundle(evidence, pair.run))]
        except UserError as error:
            missing.append(f"No intervals of {pair.name}, seed {pair.seeds}: {error}.")
    fitted = iter(adjusted([one for some in found.values() for one in some]))
    known = {at: {one.metric: next(fitted) for one in some} for at, some in found.items()}
    return Against(baseline, evidence, _differences(pairs, known), missing)


def paired(baseline: Evidence, evidence: Evidence) -> list[Pair]:
    """The final stages of one name, seed by seed; where one is left on either side, these too."""
    before, after = baseline.final(), evidence.final()
    names = [(name, name) for name in before if name in after]
    left = [[name for name in some if name not in others] for some, others in ((before, after), (after, before))]
    if len(left[0]) == len(left[1]) == 1:
        names.append((left[0][0], left[1][0]))
    return [
        Pair(first, second)
        for old, new in names
        for first in before[old]
        for second in after[new]
        if first.variant == second.variant
    ]


def _bundle(evidence: Evidence, run: Run) -> str:
    return join(evidence.place, node_key(run.name, run.variant))


def _differences(pairs: Sequence[Pair], known: Mapping[int, Mapping[str, Comparison]]) -> list[Difference]:
    """By stage, then metric, then seed."""
    found = []
    for name in dict.fromkeys(pair.name for pair in pairs):
        here = {at: pair for at, pair in enumerate(pairs) if pair.name == name}
        for metric in ordered(m for pair in here.values() for run in (pair.baseline, pair.run) for m in run.metrics):
            found += [Difference(pair, metric, known.get(at, {}).get(metric)) for at, pair in here.items()]
    return found


def against_section(found: Against) -> Section:
    names = found.names
    text = f"The final stages of {names[1]} against those of {names[0]}, which is the baseline. Where there is an "
    text += "interval, both bundles have answered the baseline's dev rows again, and it is of the difference: a paired "
    text += "bootstrap over the rows, as minibert evaluate has it."
    tables = [_scores_table(found), _settings_table(found), _cost_table(found)]
    return Section(f"Against {names[0]}", [text], tables)


def _scores_table(found: Against) -> ReportTable:
    """A row a metric of each pair of stages, or a row a seed and one of their mean."""
    several = len({one.pair.run.variant for one in found.differences}) > 1
    stages = list(dict.fromkeys(one.pair.name for one in found.differences))
    scale = max([LEAST_SCALE, *(abs(one.size or 0.0) for one in found.differences)])
    rows = []
    for subject in dict.fromkeys(map(_subject, found.differences)):
        these = [one for one in found.differences if _subject(one) == subject]
        first = Cell(these[0].metric.replace("/", " "), these[0].pair.name if len(stages) > 1 else "")
        rows += [[first, *[Cell(one.pair.seeds)][: int(several)], *_score_cells(one, scale)] for one in these]
        rows += [[first, *_mean_cells(these)]] if several else []
    notes = ["p: two-sided, of no difference, adjusted for all rows of the table (Holm). Bold, blue for a gain, orange "
             "for a cost: below .05. Gained, lost: rows that it alone has right, or the baseline."]  # fmt: skip
    notes += ["Seeds: mean ± sample standard deviation, of the differences seed by seed."] if several else []
    header = ["metric", *["seed"][: int(several)], *found.names, "difference", "95 % interval", "p (Holm)"]
    caption = f"Scores of the final stage{'s' if len(stages) > 1 else ''} {', '.join(stages)}"
    return ReportTable(caption, [*header, "gained", "lost"], rows, notes=[*notes, *found.missing])


def _subject(one: Difference) -> tuple[str, str]:
    return one.pair.name, one.metric


def _score_cells(one: Difference, scale: float) -> list[Cell]:
    """Both values, and what is known of their difference. scale: of the colours."""
    compared, size = one.compared, one.size
    sure = compared is not None and compared.p_holm is not None and compared.p_holm < SURE
    cells = [Cell(number(value), quiet=value is None) for value in one.values]
    tone = (size or 0.0) / scale if sure and kind_of(one.metric) in SCORES else None
    cells.append(Cell(DASH, quiet=True) if size is None else Cell(signed(size), tone=tone, strong=sure))
    if compared is None or compared.interval is None or compared.p_holm is None:
        return [*cells, Cell(DASH, (compared.why or "") if compared else "", quiet=True), *[Cell("")] * 3]
    cells += [Cell(f"{signed(compared.interval[0])} .. {signed(compared.interval[1])}"), Cell(_p(compared.p_holm))]
    sides = compared.sides
    return [*cells, *(Cell(str(n)) for n in (sides.gained, sides.lost))] if sides else [*cells, Cell(""), Cell("")]


def _mean_cells(some: Sequence[Difference]) -> list[Cell]:
    """The mean over seeds, of those that have both values."""
    sizes = [one.size for one in some if one.size is not None]
    sides = zip(*(one.values for one in some if one.size is not None), strict=True)
    means = [summary([value for value in side if value is not None]) for side in sides] or [None, None]
    difference = summary(sizes)
    texts = [*(spread(mean) if mean else DASH for mean in means)]
    texts.append(spread(difference, show_sign=True) if difference else DASH)
    return [Cell(f"{len(sizes)} seeds"), *map(Cell, texts), *[Cell("")] * 4]


def _p(value: float) -> str:
    return "<.0001" if value < 0.0001 else f"{value:.4f}".replace("0.", ".", 1)


def _settings_table(found: Against) -> ReportTable:
    apart = settings_apart(found.baseline, found.evidence)
    rows = [[Cell(key), *(Cell(words(value), quiet=value == ABSENT) for value in pair)] for key, pair in apart.items()]
    note = "What both have alike is left out." if rows else "Nothing: recipes, data, seeds and versions are the same."
    return ReportTable("Settings that differ", ["setting", *found.names], rows, notes=[note], words=3)


def _cost_table(found: Against) -> ReportTable:
    sides = [_by_stage(one.spent) for one in (found.baseline, found.evidence)]
    rows = [[Cell(name), *(cell for side in sides for cell in _cost_cells(side.get(name)))] for name in
            {**sides[0], **sides[1]}]  # fmt: skip
    all_of = [one.spent for one in (found.baseline, found.evidence)]
    rows.append([Cell("in all"), *(cell for spent in all_of for cell in _cost_cells(spent, strong=True))])
    header = ["stage", *["time", "worker-hours"] * 2]
    note = "Seeds, trials and what was superseded together; what counts is said under Cost."
    return ReportTable("What each has taken", header, rows, [*found.names], [note])


def _by_stage(spent: Sequence[Spent]) -> dict[str, list[Spent]]:
    return {name: [one for one in spent if one.stage == name] for name in dict.fromkeys(one.stage for one in spent)}


def _cost_cells(spent: Sequence[Spent] | None, strong: bool = False) -> list[Cell]:
    if spent is None:
        return [Cell(DASH, quiet=True)] * 2
    cost = Cost.of(spent, None)
    return [Cell(duration(cost.seconds), strong=strong), Cell(quantity(cost.worker_hours), strong=strong)]


def _to_json(one: Difference) -> dict[str, Any]:
    compared = one.compared
    before, after = one.values
    facts = {"stage": one.pair.run.name, "baseline_stage": one.pair.baseline.name, "seed": one.pair.run.row["seed"]}
    facts |= {"metric": one.metric, "baseline": before, "value": after, "difference": one.size}
    keys = ("rows", "interval", "p", "p_holm", "sides", "why")
    return facts | (dict.fromkeys(keys) if compared is None else {key: asdict(compared)[key] for key in keys})

"""The report's tables of scores: the papers' own, all stages, and what each stage gained or cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from multitask.experiment.results import decided, setting_cell, summary, sweep_lines, swept_settings
from multitask.recipe.settings import Condition, PaperTable
from multitask.report.blocks import Cell, ReportTable
from multitask.report.numbers import DASH, SCORES, kind_of, number, ordered, spread, task_of
from multitask.report.reading import Evidence, Run

LEAST_SCALE = 0.1  # of the retention matrix's colours, so that noise stays pale
# Encoders whose own pre-training has seen the like of some tasks' data: source -> tasks, what to say of them.
CAVEATS = {
    "minilm-l6": (
        ("quora", "sts"),
        "† The pre-training of all-MiniLM-L6-v2 had a billion sentence pairs, Quora duplicates among them.",
    )
}


def caveats(evidence: Evidence) -> list[str]:
    found = CAVEATS.get(evidence.results["encoder"]["source"])
    return [found[1]] if found else []


def label(evidence: Evidence, metric: str, words: str = "") -> str:
    """A metric's title, with the sign of its caveat."""
    tasks, _ = CAVEATS.get(evidence.results["encoder"]["source"], ((), ""))
    return (words or metric.replace("/", " ")) + ("†" if task_of(metric) in tasks else "")


def score_cell(runs: Sequence[Run], metric: str, strong: bool = False) -> Cell:
    """A stage's score: the value over its interval, mean ± sd over several seeds, or a dash and why."""
    values = [value for run in runs if (value := run.metrics.get(metric)) is not None]
    found = summary(values)
    if found is None:
        reasons = [run.row.get("why", {}).get(metric, "") for run in runs]
        return Cell(DASH, next(filter(None, reasons), ""), quiet=True)
    if len(runs) > 1:
        missing = f"n = {found.n} of {len(runs)}" if found.n < len(runs) else ""
        return Cell(spread(found), missing, strong=strong)
    interval = runs[0].intervals.get(metric)
    note = f"[{number(interval[0])},\N{NO-BREAK SPACE}{number(interval[1])}]" if interval else ""
    return Cell(spread(found), note, strong=strong)


def paper_table(evidence: Evidence, table: PaperTable) -> ReportTable:
    """The table in the paper's layout, its numbers beside ours."""
    conditions = list(table.conditions.items())
    metrics = [(label(evidence, metric, words), metric) for metric, words in table.metrics.items()]
    if table.layout == "conditions-as-columns":
        groups = [name for name, _ in conditions]
        pairs = [(name, [_pair(evidence, c, metric) for _, c in conditions]) for name, metric in metrics]
    else:
        groups = [name for name, _ in metrics]
        pairs = [(name, [_pair(evidence, condition, m) for _, m in metrics]) for name, condition in conditions]
    rows = [[Cell(name), *(cell for pair in across for cell in pair)] for name, across in pairs]
    ours = "; ".join(f"{name} is {condition.stage}" for name, condition in conditions)
    notes = [f"Paper: {table.source}. Ours: {ours}.", *rests_on(evidence, table.metrics), *seeds_note(evidence)]
    marked = any("†" in name for name, _ in metrics)
    return ReportTable(
        table.title,
        ["", *["paper", "ours"] * len(groups)],
        rows,
        groups,
        [*([table.note] if table.note else []), *notes, *(caveats(evidence) if marked else [])],
    )


def _pair(evidence: Evidence, condition: Condition, metric: str) -> tuple[Cell, Cell]:
    runs = evidence.stages.get(condition.stage, [])
    paper = Cell(number(condition.paper.get(metric)), quiet=True)
    if not any(run.finished for run in runs):
        return paper, Cell(DASH, "not finished" if runs else "no such stage here", quiet=True)
    return paper, score_cell(runs, metric, strong=True)


def rests_on(evidence: Evidence, metrics: Iterable[str]) -> list[str]:
    """What the scores of some metrics rest on: rows used and the majority class, task by task."""
    data, said = evidence.results["data"], []
    for task in dict.fromkeys(map(task_of, metrics)):
        if task in data:
            rows = ", ".join(f"{count:,} {split}" for split, count in data[task]["rows_used"].items())
            base = data[task]["majority_baseline"]
            said.append(f"{task} {rows}" + (f", majority class {number(base)}" if base is not None else ""))
    return ["Rows used: " + "; ".join(said) + "."] if said else []


def seeds_note(evidence: Evidence) -> list[str]:
    """What ± means, for the note below a table that uses it."""
    most = max(evidence.stages.values(), key=len)
    if len(most) < 2:
        return []
    seeds = ", ".join(str(run.row["seed"]) for run in most)
    return [f"± is the sample standard deviation (n − 1) over n = {len(most)} seeds: {seeds}."]


def stages_table(evidence: Evidence) -> ReportTable:
    """The table of all scores: a row a stage or trial."""
    metrics, several, settings = evidence.metrics, bool(seeds_note(evidence)), swept_settings(evidence.rows)
    rows = []
    for name, runs in evidence.stages.items():
        first, these = runs[0].row, [run.row for run in runs]
        what = [Cell(name), Cell(first["objective"] or ""), Cell(first["train"] or ""), _start(evidence, runs[0])]
        tried = [Cell(setting_cell(these, key)) for key in settings]
        cells = [*what, *tried, _mean(runs, "rows"), _mean(runs, "epochs")]
        stars, trained = decided(these), runs[0].tasks
        scores = [starred(score_cell(runs, metric, task_of(metric) in trained), metric in stars) for metric in metrics]
        effort = [_mean(runs, "seconds"), _mean(runs, "examples_per_second", 1), Cell(_status(runs))]
        rows.append([*cells, *scores, *effort, *([Cell(str(len(runs)))] if several else [])])
    header = ["stage", "objective", "train", "from", *settings, "rows", "epochs"]
    header += [
        *(label(evidence, metric) for metric in metrics),
        "seconds",
        "examples/s",
        "status",
        *(["n"] if several else []),
    ]
    notes = [f"* {line}" for line in sweep_lines(evidence.rows)]
    notes += ["Dev metrics over all usable rows. In brackets: the 95 % bootstrap interval. Bold: a task that the stage "
              "trains."]  # fmt: skip
    return ReportTable(
        "Every stage of the experiment", header, rows,
        notes=[*notes, *rests_on(evidence, metrics), *seeds_note(evidence), *caveats(evidence)], words=4,
    )  # fmt: skip


def starred(cell: Cell, best: bool) -> Cell:
    """A score's cell with the star that marks the score by which a trial is the best of its sweep."""
    return replace(cell, text=f"{cell.text}*") if best else cell


def _start(evidence: Evidence, run: Run) -> Cell:
    return Cell(run.start or "") if run.start is None or run.start in evidence.stages else Cell("a bundle", run.start)


def _mean(runs: Sequence[Run], key: str, digits: int = 0) -> Cell:
    found = summary([run.row[key] for run in runs if run.row[key] is not None])
    return Cell(f"{found.mean:,.{digits}f}" if found else "")


def _status(runs: Sequence[Run]) -> str:
    states = dict.fromkeys(run.row["status"] if run.finished else f"not finished ({run.row['status']})" for run in runs)
    return ", ".join(states)


def gains(evidence: Evidence, name: str, metric: str) -> list[float]:
    """What each run of a stage added to a metric of what it started from; empty where that is not known."""
    found = []
    for run in evidence.stages[name]:
        before, after = evidence.before(run).get(metric), run.metrics.get(metric)
        if before is not None and after is not None:
            found.append(after - before)
    return found


def retention_table(evidence: Evidence) -> ReportTable | None:
    """The retention matrix: a metric after a stage minus the same before it (bertaar.txt, 8.2 to 8.4)."""
    found = {
        (name, metric): change
        for name in evidence.stages
        for metric in evidence.metrics
        if (change := summary(gains(evidence, name, metric)))
    }
    if not found:
        return None
    metrics = ordered(metric for metric in evidence.metrics if any(column == metric for _, column in found))
    sizes = [abs(change.mean) for (_, metric), change in found.items() if kind_of(metric) in SCORES]
    scale = max([LEAST_SCALE, *sizes])
    rows = []
    for name, runs in evidence.stages.items():
        if runs[0].start is None:
            continue
        cells = []
        for metric in metrics:
            change = found.get((name, metric))
            if change is None:
                cells.append(Cell(DASH, quiet=True))
                continue
            tone = change.mean / scale if kind_of(metric) in SCORES else None
            cells.append(Cell(spread(change, show_sign=True), tone=tone, strong=task_of(metric) in runs[0].tasks))
        rows.append([Cell(name), _start(evidence, runs[0]), *cells])
    notes = ["Blue: gained; orange: cost; 0 is exactly 0. Bold: a task that the stage trains. A dash: not finished, "
             "or started from another experiment's bundle."]  # fmt: skip
    header = ["stage", "from", *(label(evidence, metric) for metric in metrics)]
    return ReportTable(
        "What each stage gained or cost every task", header, rows, notes=[*notes, *seeds_note(evidence)], words=2
    )


def conflict_tables(evidence: Evidence) -> list[ReportTable]:
    """A table a stage that measured its tasks' gradients (`log: {conflict: 50}`): the mean cosine by part and pair of
    tasks, and the share of the measurements below 0."""
    found = [(name, runs) for name, runs in evidence.stages.items() if any(run.conflicts for run in runs)]
    return [_conflict_table(evidence, name, runs) for name, runs in found]


def _conflict_table(evidence: Evidence, name: str, runs: Sequence[Run]) -> ReportTable:
    keys = list(dict.fromkeys(key for run in runs for key in run.conflicts))
    pairs, parts = (list(dict.fromkeys(names)) for names in zip(*keys, strict=True))
    rows = [[Cell(part), *(_conflict_cell(runs, (pair, part)) for pair in pairs)] for part in parts]
    times = max(len(curve) for run in runs for curve in run.conflicts.values())
    notes = [f"Measured {times} times in a run of the stage. In brackets: the share of the measurements below 0."]
    return ReportTable(
        f"Conflict between the tasks of {name}", ["", *pairs], rows, notes=[*notes, *seeds_note(evidence)]
    )


def _conflict_cell(runs: Sequence[Run], key: tuple[str, str]) -> Cell:
    curves = [[value for _, value in run.conflicts[key]] for run in runs if key in run.conflicts]
    found = summary([sum(values) / len(values) for values in curves])
    if found is None:
        return Cell(DASH, quiet=True)
    values = [value for curve in curves for value in curve]
    below = sum(value < 0 for value in values) / len(values)
    return Cell(spread(found, show_sign=True), f"[{below:.0%}]", tone=found.mean)

"""The report of an experiment, section by section."""

from __future__ import annotations

from multitask.experiment.results import is_trial, summary, sweep_lines
from multitask.report.against import Against, against_section
from multitask.report.blocks import Report, Section
from multitask.report.cost import Cost, cost_document, cost_section
from multitask.report.facts import data_table, trainers_table
from multitask.report.figures import interval_figure, stage_figure
from multitask.report.looks import looks_section
from multitask.report.numbers import FIRST, spread
from multitask.report.reading import ENCODER, Evidence
from multitask.report.sweeps import sweeps_section
from multitask.report.tables import caveats, conflict_tables, label, paper_table, retention_table, stages_table


def compose(evidence: Evidence, price: float | None = None, against: Against | None = None) -> Report:
    """The report of an experiment. price: of a worker's hour. against: what a comparison with another one has found."""
    results = evidence.results
    encoder = results["encoder"]
    facts = [("Recipe", results["recipe"]), ("Encoder", encoder["source"]), ("Stages", _progress(evidence))]
    facts += [("Overall scores", f"of {', '.join(results['overall'])}")] if "overall" in results else []
    facts += [("Cost", Cost.of(evidence.spent, price).line(price))]
    builders = [_papers, _stages, sweeps_section, _retention, _conflict, _curves, _final, looks_section]
    sections = [section for build in builders if (section := build(evidence)) is not None]
    sections[:0] = [against_section(against)] if against else []
    sections += [cost_section(evidence.spent, results.get("attempt", 1), price), _run_facts(evidence)]
    notes = [*sweep_lines(evidence.rows), *caveats(evidence)]
    document = {"cost": cost_document(evidence.spent, price)} | ({"against": against.to_json()} if against else {})
    return Report(results["experiment"], facts, headline(evidence), notes, sections, document)


def _progress(evidence: Evidence) -> str:
    stages = [run for run in evidence.runs if run.name != ENCODER and not is_trial(run.row)]
    trials = [run for run in evidence.runs if is_trial(run.row)]
    done = f"{sum(run.finished for run in stages)} of {len(stages)} finished"
    swept = f" ({sum(run.finished for run in trials)} of {len(trials)} trials)" if trials else ""
    return f"{done}{swept}"


def headline(evidence: Evidence) -> str:
    """The scores of the final stage with the best overall score, or of the last one where none has such a score."""
    final = evidence.final()
    if not final:
        return "No stage is finished yet."
    overall = {
        name: found.mean
        for name, runs in final.items()
        if (found := summary([value for run in runs if (value := run.metrics.get(FIRST[-1])) is not None]))
    }
    best = max(overall, key=overall.__getitem__) if overall else list(final)[-1]
    scores = []
    for metric in evidence.metrics:
        found = summary([value for run in final[best] if (value := run.metrics.get(metric)) is not None])
        scores += [f"{label(evidence, metric)} {spread(found)}"] if found else []
    which = f"Best final stage by {label(evidence, FIRST[-1])}" if len(overall) > 1 else "Last stage"
    return f"{which}, {best}: {', '.join(scores)}"


def _papers(evidence: Evidence) -> Section | None:
    tables = [paper_table(evidence, table) for table in evidence.tables]
    text = "The papers' layout: their figures, and beside them what this experiment measured on dev."
    return Section("The papers' tables", [text], tables) if tables else None


def _stages(evidence: Evidence) -> Section:
    return Section("Stages", tables=[stages_table(evidence)])


def _retention(evidence: Evidence) -> Section | None:
    table = retention_table(evidence)
    text = "A metric after the stage minus the same metric of what the stage started from."
    return Section("Retention", [text], [table]) if table else None


def _conflict(evidence: Evidence) -> Section | None:
    tables = conflict_tables(evidence)
    text = (
        "The cosine between two tasks' gradients in a part of the encoder, the mean over the stage: 1 where the tasks "
    )
    text += "want the same of it, 0 where they have nothing to do with each other, below 0 where one undoes the other."
    return Section("Conflict between tasks", [text], tables) if tables else None


def _curves(evidence: Evidence) -> Section | None:
    figures = [figure for name in evidence.stages if (figure := stage_figure(evidence, name))]
    text = "Training loss every ten steps, smoothed, the raw one pale behind it; dev metrics after each epoch, where "
    text += "epoch 0 is what the stage started from."
    return Section("Curves", [text], figures=figures) if figures else None


def _final(evidence: Evidence) -> Section | None:
    figure = interval_figure(evidence)
    return Section("Final stages", figures=[figure]) if figure else None


def _run_facts(evidence: Evidence) -> Section:
    versions = ", ".join(f"{name} {version}" for name, version in evidence.results["versions"].items())
    encoder = evidence.results["encoder"]
    text = [
        f"Encoder {encoder['source']}, fingerprint {encoder['fingerprint'][:12]}.",
        f"Versions: {versions}.",
        f"Curves in full: tensorboard --logdir {evidence.place}",
    ]
    return Section("Run facts", text, [trainers_table(evidence), data_table(evidence)])

"""`minibert recruit suitability` and `calibrate`, and what a suitability bundle is worth on held-out rows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.bundle.bundle import Bundle, save_bundle
from multitask.bundle.fitting import fitted_on
from multitask.data.files import find_file
from multitask.data.samplers import derive_seed
from multitask.data.shards import read_examples
from multitask.errors import UserError, short_list
from multitask.experiment.finding import open_bundle
from multitask.experiment.results import cell
from multitask.inference.embed import default_device
from multitask.measure.bootstrap import clustered_interval
from multitask.measure.functions import Floats, pearson
from multitask.recruit.calibration import (
    Bin,
    auc,
    brier,
    cross_entropy,
    ece,
    fit_temperature,
    reliability,
)
from multitask.recruit.suitability import TASK, Pair, Suitability, cooled, labels_note, qualified, sigmoid
from multitask.storage.storage import Storage
from multitask.storage.uris import join
from multitask.tasks.table import TASKS
from ray_jobs.recruit.texts import given_text
from ray_jobs.screen import Screen

PERSON_DECIDES = "A person decides: this compares words, it knows nothing of the applicant (bertaar.txt, section 10)."
FIGURE = "reliability.png"
SEED = 11711  # of which half of dev a posting is in


def run_suitability(bundle: str, job: str, application: str, score: bool, screen: Screen) -> None:
    """Shows whether an application is qualified for a job; the probability only where it was asked for.

    job, application: texts, .txt or .md files, or "-" for standard input.
    """
    loaded = open_bundle(bundle)
    pair = (given_text(job, "job"), given_text(application, "application"))
    probability = Suitability(loaded, default_device()).probabilities([pair])
    answer, note = bool(qualified(probability)[0]), labels_note(loaded)
    if screen.as_json:
        found: dict[str, Any] = {"qualified": answer, "labels": note}
        screen.document(found | ({"probability": float(probability[0])} if score else {}))
        return
    screen.say("qualified" if answer else "not qualified")
    if score:
        screen.say(f"probability {probability[0]:.3f}" + ("" if _is_calibrated(loaded) else ", not calibrated"))
    screen.say(PERSON_DECIDES + (f"\nThe model was trained on {note}." if note else ""))


def _is_calibrated(bundle: Bundle) -> bool:
    return "temperature" in bundle.about or bool(fitted_on(bundle.about, TASK))


class Rated:
    """The dev file's rows with a bundle's logits. groups: what each id names before its "/", a posting."""

    def __init__(self, bundle: Bundle, data: str) -> None:
        columns = bundle.about.get("columns", {}).get(TASK, {})
        # Before the file: without such a head there is nothing to read it for.
        model = Suitability(bundle, default_device())
        read = read_examples(find_file(data, TASKS[TASK], "dev"), TASKS[TASK], labelled=True, columns=columns)
        self.source, self.quarantined = read.source, len(read.quarantined)
        self.labels: Floats = np.array([example.label for example in read.examples], np.float64)
        self.groups = [example.id.split("/")[0] for example in read.examples]
        pairs: list[Pair] = [(example.texts[0], example.texts[1]) for example in read.examples]
        self.logits = model.logits(pairs)

    def half(self) -> NDArray[np.bool_]:
        """(N,) whether a row is of the half of the postings that fits: every second one, in an order by hash.

        Raises UserError where there are fewer than two.
        """
        names = sorted(set(self.groups), key=lambda name: derive_seed(SEED, "calibration", name))
        if len(names) < 2:
            raise UserError(
                f"{self.source}: rows of {len(names)} posting; half of the postings fit a temperature, two at least"
            )
        return np.isin(self.groups, names[::2])


def calibrate(bundle: str, data: str, output: str, screen: Screen) -> None:
    """Fits the temperature on half of dev's postings, measures on the others, and writes the cooled bundle to `output`
    with the reliability diagram beside its files."""
    target = Storage(output)
    if names := target.list():
        raise UserError(f"--output '{output}': holds {short_list(names)}; name a directory that is not there yet")
    loaded = open_bundle(bundle)
    rated = Rated(loaded, data)
    fit = rated.half()
    temperature = fit_temperature(rated.logits[fit], rated.labels[fit])
    logits, labels = rated.logits[~fit], rated.labels[~fit]
    facts = {"rows_fit": int(fit.sum()), "rows_measured": len(labels), "labels": labels_note(loaded)}
    quality = {"before": _quality(logits, labels, 1.0), "after": _quality(logits, labels, temperature)}
    made = cooled(loaded, temperature)
    save_bundle(target, "", replace(made, about={**made.about, "calibration": {**facts, **quality}}))
    bins = {name: reliability(sigmoid(logits / t), labels) for name, t in (("before", 1.0), ("after", temperature))}
    target.write_bytes(FIGURE, reliability_figure(bins, str(facts["labels"])))
    screen.say(f"temperature {temperature:.3f}, fitted on {facts['rows_fit']} rows of {rated.source};")
    screen.say(f"measured on the {len(labels)} rows of the other postings")
    screen.table(["measure", *quality], [[n, *(cell(some[n]) for some in quality.values())] for n in quality["before"]])
    for name, some in bins.items():
        screen.table(
            ["predicted", "rows", "mean prediction", "mean label"], _bin_rows(some), title=f"reliability {name}"
        )
    _note(screen, loaded)
    screen.say(f"bundle: {target.uri}\nfigure: {join(target.uri, FIGURE)}")
    if screen.as_json:
        places = {"bundle": target.uri, "figure": join(target.uri, FIGURE)}
        screen.document({**places, "temperature": temperature, **facts, **quality})


def _quality(logits: Floats, labels: Floats, temperature: float) -> dict[str, float]:
    probabilities = sigmoid(logits / temperature)
    return {
        "ece": ece(probabilities, labels),
        "brier": brier(probabilities, labels),
        "cross_entropy": cross_entropy(logits, labels, temperature),
    }


def _bin_rows(bins: Sequence[Bin]) -> list[list[str]]:
    return [
        [f"{b.low:.1f} .. {b.high:.1f}", str(b.count), cell(b.predicted), cell(b.labelled)] for b in bins if b.count
    ]


def _note(screen: Screen, bundle: Bundle) -> None:
    if note := labels_note(bundle):
        screen.say(f"labels: {note}")


def reliability_figure(bins: dict[str, list[Bin]], note: str) -> bytes:
    """A PNG: mean label over mean prediction of each bin, its rows as the points' areas; the diagonal is calibrated."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.6), layout="constrained", dpi=150)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="calibrated")
    for (name, some), colour in zip(bins.items(), ("#b35806", "#2166ac"), strict=True):
        full = [b for b in some if b.predicted is not None and b.labelled is not None]
        x, y = [b.predicted or 0.0 for b in full], [b.labelled or 0.0 for b in full]
        axes.plot(x, y, color=colour, linewidth=1.2, label=name)
        axes.scatter(x, y, s=[8 + 2.0 * b.count for b in full], color=colour, alpha=0.7)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean prediction", ylabel="mean label", aspect="equal")
    axes.set_title("\n".join(["Reliability of the suitability score", *note.split(": ")[:1]]), fontsize=9)
    axes.legend(frameon=False, loc="upper left", fontsize=8)
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


def suitability_metrics(bundle: Bundle, data: str) -> dict[str, Any]:
    """What a suitability bundle is worth on the dev file of a directory.

    Returns {"source", "rows", "quarantined", "labels": the note, "metrics": {name: {"value", "interval", "why"}}}.
    Intervals: 95 % bootstrap over postings. Labels from 0.5 on count as qualified.
    """
    rated = Rated(bundle, data)
    given, labels = sigmoid(rated.logits), rated.labels
    positive = qualified(labels)
    statistics = {
        "pearson": lambda rows: float(pearson(given[rows], labels[rows])),
        "accuracy": lambda rows: float(np.mean(qualified(given[rows]) == positive[rows])),
        "auc": lambda rows: auc(given[rows], positive[rows]),
        "ece": lambda rows: ece(given[rows], labels[rows]),
        "brier": lambda rows: brier(given[rows], labels[rows]),
    }
    metrics = {}
    for name, statistic in statistics.items():
        value = statistic(np.arange(len(labels)))
        known = bool(np.isfinite(value))
        metrics[name] = {
            "value": value if known else None,
            "interval": clustered_interval(statistic, rated.groups) if known else None,
            "why": "" if known else "all labels, or all predictions, are on one side",
        }
    facts = {"source": rated.source, "rows": len(labels), "quarantined": rated.quarantined}
    return {**facts, "labels": labels_note(bundle), "metrics": metrics}


def interval_cell(interval: tuple[float, float] | None) -> str:
    return " .. ".join(cell(bound) for bound in interval) if interval else "-"

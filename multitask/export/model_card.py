"""The model card of an export, README.md with the hub's metadata block (Mitchell et al., 2019; the hub's model card
specification): what it is, how it is used, what it is worth, what it is not for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from multitask import markdown
from multitask.bundle.bundle import Bundle
from multitask.data.sample import sample_uri
from multitask.export import FORMATS
from multitask.export.provenance import Provenance
from multitask.tasks.labels import KINDS
from multitask.tasks.table import TaskSpec


@dataclass(frozen=True)
class Origin:
    """Where an encoder comes from, as its export's card says it.

    licence: the hub's name for it. hub: the encoder's id there. note: what to know of its scores.
    """

    licence: str
    hub: str = ""
    note: str = ""


ENCODERS = {
    "tiny": Origin("apache-2.0", note="begins with random weights: all it knows, it learned from the data named here"),
    "minilm-l6": Origin(
        "apache-2.0",
        "sentence-transformers/all-MiniLM-L6-v2",
        "was trained on a billion pairs, Quora's duplicates among them: scores on Quora and STS are not of unseen data",
    ),
    "bert-base-uncased": Origin("apache-2.0", "google-bert/bert-base-uncased"),
    "bert-large-uncased": Origin("apache-2.0", "google-bert/bert-large-uncased"),
}
# Task -> the terms of its usual files; of others this project knows nothing.
DATA_TERMS = {"quora": "Quora question pairs: for non-commercial use (Quora's terms)"}
UNKNOWN = "not known; ask where the files came from"
SAMPLE = "the project's own sample, made up; apache-2.0"
ABOUT = (  # of a bundle's `about`, what its training is known by
    *("recipe", "stage", "trainer", "encoder", "objective", "steps", "max_length", "fingerprint"),
    *("dtype", "temperature"),
)
LIMITS = (
    "Texts are cut to {max_length} tokens, [CLS] and [SEP] included.",
    "It was made for English, and learned what its data hold: their subjects, their time, their prejudices.",
    "A head is only as good as the encoder under it was when it was trained; later stages may have moved the encoder.",
    "Not for decisions about people that no person checks.",
)


def model_card(
    bundle: Bundle, form: str, provenance: Provenance, place: str, notes: Sequence[str] = (), dtype: str = "float32"
) -> str:
    """The whole model card as Markdown. form: a key of FORMATS. place: what the code loads. notes: what the export had
    to say. dtype: of the weights; scores were measured in float32, and the hub is told no others'."""
    about, used = bundle.about, _used(bundle)
    code = FORMATS[form].code.replace("PLACE", repr(place)).replace("MAX_LENGTH", str(bundle.max_length))
    metadata = _metadata(bundle, form, provenance if dtype == "float32" else Provenance(), used)
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---",
        f"# {_title(about)}",
        _summary(bundle, FORMATS[form].returns),
        f"## Use\n\n```python\n{code}```",
        *(["\n".join(f"- {note}" for note in notes)] if notes else []),
        f"## What it is worth\n\n{_worth(provenance)}",
        f"## Data\n\n{_data(bundle, provenance, used)}",
        f"## Training\n\n{_training(bundle, provenance)}",
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(bundle)),
        f"## Licences\n\n{_licences(bundle, provenance, used)}",
    ]
    return "\n\n".join(parts) + "\n"


def _title(about: Mapping[str, Any]) -> str:
    return f"{about['recipe']}/{about['stage']}" if "recipe" in about else str(about.get("encoder", "encoder"))


def _used(bundle: Bundle) -> list[str]:
    """The tasks whose data the bundle was trained on, as far as is known."""
    return sorted({*bundle.about.get("tasks", ()), *bundle.about.get("trained", ())})


def _metadata(bundle: Bundle, form: str, provenance: Provenance, used: Sequence[str]) -> dict[str, Any]:
    """The metadata block that the hub reads: github.com/huggingface/hub-docs, modelcard.md."""
    origin = ENCODERS.get(bundle.about.get("encoder", ""))
    if origin and not used:
        licence: dict[str, Any] = {"license": origin.licence}
    else:  # of several sources, or of unknown ones: the page says which
        licence = {"license": "other", "license_name": "see-licences", "license_link": "README.md"}
    found: dict[str, Any] = {
        "language": ["en"],
        **licence,
        "library_name": FORMATS[form].library or form,
        "pipeline_tag": FORMATS[form].pipeline,
        "tags": ["minibert", "bert", *sorted(bundle.heads)],
    }
    if origin and origin.hub:
        found["base_model"] = origin.hub
    specs = bundle.specs
    if results := [_result(specs[task], provenance) for task in bundle.heads if _measured(specs[task], provenance)]:
        found["model-index"] = [{"name": _title(bundle.about), "results": results}]
    return found


def _measured(spec: TaskSpec, provenance: Provenance) -> bool:
    return provenance.outcome.get("metrics", {}).get(spec.metric_key) is not None


def _result(spec: TaskSpec, provenance: Provenance) -> dict[str, Any]:
    metric: dict[str, Any] = {"type": spec.metric, "name": spec.metric_key}
    metric["value"] = provenance.outcome["metrics"][spec.metric_key]
    if interval := provenance.outcome["intervals"].get(spec.metric_key):
        metric["args"] = {"interval_95": list(interval)}
    hub_task = "text-classification" if KINDS[spec.label.kind].probability else "sentence-similarity"
    task = {"type": hub_task, "name": spec.name}
    return {"task": task, "dataset": {"type": spec.name, "name": spec.name, "split": "dev"}, "metrics": [metric]}


def _summary(bundle: Bundle, returns: bool) -> str:
    config = bundle.config
    heads = ", ".join(f"{task} ({name})" for task, name in bundle.heads.items()) or "none"
    return (
        f"A BERT encoder: {config.num_hidden_layers} layers, width {config.hidden_size}, {bundle.pooling} pooling. "
        f"Heads: {heads}. Made with minibert-multitask"
        + (", which takes it back with `minibert import`, heads included." if returns else ".")
    )


def _worth(provenance: Provenance) -> str:
    metrics = provenance.outcome.get("metrics", {})
    if not metrics:
        return "Not measured where it was exported from: `minibert evaluate` does it, on data that is named."
    rows = []
    for name, value in metrics.items():
        row = {
            "value": value,
            "why": provenance.outcome["why"].get(name),
            "interval": provenance.outcome["intervals"].get(name),
        }
        dev = provenance.data.get(name.partition("/")[0], {}).get("rows_used", {}).get("dev", "")
        rows.append((name, markdown.number(row), markdown.interval(row), dev))
    return markdown.table(("metric on dev", "value", "95 % interval", "rows"), rows)


def _data(bundle: Bundle, provenance: Provenance, used: Sequence[str]) -> str:
    if not used:
        return "None of this project: the encoder is as it came."
    rows, unknown = [], "not known"
    for task in used:
        facts = provenance.data.get(task, {})
        counts = [facts.get("rows_used", {}).get(split, unknown) for split in ("train", "dev")]
        left_out = sum(map(len, facts["quarantined"].values())) if facts else unknown
        sha256 = facts.get("fingerprint", {}).get("train", unknown)[:12]
        rows.append((task, *counts, left_out, sha256, bundle.about.get("notes", {}).get(task, "")))
    return markdown.table(("task", "training rows", "dev rows", "left out", "training file's sha256", "note"), rows)


def _training(bundle: Bundle, provenance: Provenance) -> str:
    rows = [(key.replace("_", " "), bundle.about[key]) for key in ABOUT if key in bundle.about]
    facts = markdown.table(("about", ""), rows)
    if not provenance.stages:
        return facts
    columns = ("name", "objective", "train", "epochs", "steps", "rows", "seed")
    line = [[stage[key] if stage[key] is not None else "" for key in columns] for stage in provenance.stages]
    return f"{facts}\n\nThe stages that led here:\n\n{markdown.table(columns, line)}"


def _limits(bundle: Bundle) -> list[str]:
    lines = [line.format(max_length=bundle.max_length) for line in LIMITS]
    origin = ENCODERS.get(bundle.about.get("encoder", ""))
    if origin and origin.note:
        lines.append(f"The encoder {origin.note}.")
    if drawn := sorted(bundle.heads.keys() - set(bundle.about.get("trained", bundle.heads))):
        lines.append(f"These heads are as they were drawn, nothing trained them: {', '.join(drawn)}.")
    if bundle.branches:
        own = ", ".join(f"{task} (its last {size})" for task, size in bundle.branches.items())
        lines.append(f"Tasks with layers of their own, which are not the encoder's and go with their heads: {own}.")
    return lines


def _licences(bundle: Bundle, provenance: Provenance, used: Sequence[str]) -> str:
    encoder = str(bundle.about.get("encoder", "not known"))
    origin = ENCODERS.get(encoder)
    rows = [(f"encoder {encoder}", origin.licence if origin else UNKNOWN)]
    for task in used:
        source = str(provenance.data.get(task, {}).get("source", {}).get("train", ""))
        sampled = source.startswith(sample_uri())
        rows.append((f"data of {task}", SAMPLE if sampled else DATA_TERMS.get(task, UNKNOWN)))
    said = "Stages on unlabelled text, and the encoder's own training, may rest on more data than is listed."
    return f"{markdown.table(('of', 'terms'), rows)}\n\n{said} The terms of the data may bind what was trained on them."

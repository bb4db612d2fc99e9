"""The kinds of files that the program reads back, and the command that reads each."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bitflips.commands import Command
from tests.bitflips.worlds import ANSWER, BUNDLE, EMBED, FORMS, PREDICT, TRAIN, ask_index, read_remote

EVALUATE = ["evaluate", BUNDLE, "--data", "data", "--json", "--quiet"]
REPORT = ["report", "runs/one"]
EXPORT = ["export", BUNDLE, "--format", "transformers", "--output", "again", "--quiet"]

TRAINED = (
    "results.json",
    "*/bundle/[!m]*",
    "*/bundle/model.json",
    "*/predictions/*",
    "*/metrics.jsonl",
    "*/outcome.json",
    "*.zip",
)


@dataclass(frozen=True, eq=False)
class Kind:
    """state: which of a world's. pattern: the file in it, the first that fits. results: what the command makes, as
    patterns; what it prints belongs to it where `printed`."""

    name: str
    state: str
    pattern: str
    command: Command
    results: tuple[str, ...] = ()
    printed: bool = False


def _kinds() -> list[Kind]:
    trained = tuple(f"runs/one/{pattern}" for pattern in TRAINED)
    found = [
        Kind("token cache", "fresh", "runs/cache/tokens/*.safetensors", TRAIN, trained),
        Kind("features", "fresh", "runs/cache/features/*.safetensors", TRAIN, trained),
    ]
    for file in ("weights.safetensors", "model.json", "tokenizer.json", "manifest.json"):
        found.append(Kind(f"encoder in cache/, {file}", "fresh", f"runs/cache/encoders/*/{file}", TRAIN, trained))
    found.append(Kind("copy of a remote file", "fresh", "tmp/minibert-cache-*/*/*", read_remote, (), True))
    for file in ("weights.safetensors", "optimizer.safetensors", "extra.safetensors", "state.json", "manifest.json"):
        where = f"runs/one/*/checkpoints/step-*6/{file}"
        found.append(Kind(f"checkpoint, {file}", "mid", where, TRAIN, trained))
    for file in ("experiment.json", "driver.json", "recipe.yaml", "results.json"):
        found.append(Kind(f"{file}, resumed", "mid", f"runs/one/{file}", TRAIN, trained))
    for file in ("metrics.jsonl", "writer.json"):
        found.append(Kind(f"{file}, resumed", "mid", f"runs/one/*/{file}", TRAIN, trained))
    found.append(Kind("experiment.json, finished", "done", "runs/one/experiment.json", TRAIN, trained))
    found.append(Kind("outcome.json, finished", "done", "runs/one/*/outcome.json", TRAIN, trained))
    reported = ("runs/one/report.html", "runs/one/report.md")
    for file in ("experiment.json", "results.json", "recipe.yaml", "*/metrics.jsonl", "*/*seed=*/events.out.*"):
        name = "TensorBoard events" if "events" in file else file.removeprefix("*/")
        found.append(Kind(f"{name}, reported", "done", f"runs/one/{file}", REPORT, reported))
    for file in ("weights.safetensors", "model.json", "tokenizer.json", "manifest.json"):
        found.append(Kind(f"bundle, {file}", "done", f"{{last}}/bundle/{file}", EVALUATE, (), True))
    found.append(Kind("experiment.json, of a bundle", "done", "runs/one/experiment.json", EVALUATE, (), True))
    for file in ("runs/one/results.json", "{last}/outcome.json"):
        name = file.rpartition("/")[2]
        found.append(Kind(f"{name}, exported", "done", file, EXPORT, ("again/**/*",)))
    for form in FORMS:
        command = ["import", f"exported/{form}", "--output", "back"]
        for file in _exported(form):
            found.append(Kind(f"{form} export, {file}", "done", f"exported/{form}/{file}", command, ("back/*",)))
    for file in ("manifest.json", "postings.jsonl", "passages.jsonl", "vectors.safetensors", "nearest.usearch"):
        found.append(Kind(f"index, {file}", "done", f"index/{file}", ask_index, (), True))
    for part in ("encoder", "completion", "suitability"):
        for file in ("weights.safetensors", "model.json", "tokenizer.json", "manifest.json"):
            found.append(Kind(f"index, {part}/{file}", "done", f"index/{part}/{file}", ask_index, (), True))
    for name, command in (("embed", EMBED), ("predict", ANSWER)):
        at = {"embed": "embedded", "predict": "answered"}[name]
        made = (f"{at}/*",)
        found.append(Kind(f"{name}, a part, complete", "done", f"{at}/part-00000.parquet", command, made, True))
        found.append(Kind(f"{name}, _manifest.json", "done", f"{at}/_manifest.json", command, made, True))
        found.append(Kind(f"{name}, _work.json", "done", f"{at}/_work.json", command, made, True))
        found.append(Kind(f"{name}, a part, going on", "stopped", f"{at}/part-00000.parquet", command, made, True))
        found.append(Kind(f"{name}, _work.json, going on", "stopped", f"{at}/_work.json", command, made, True))
    found.append(Kind("predictions", "done", "predicted/predictions/sst-dev-output.csv", PREDICT, ("predicted/**/*",)))
    return found


def _exported(form: str) -> list[str]:
    files = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
        "minibert.json",
    ]
    if form == "sentence-transformers":
        files += ["modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"]
        files += ["sentence_bert_config.json"]
    return files


KINDS = {kind.name: kind for kind in _kinds()}

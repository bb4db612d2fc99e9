"""What smaller weights cost: each task's dev metric by an exported file, beside the bundle's own."""

from __future__ import annotations

import json
from pathlib import Path

from multitask.bundle.bundle import Bundle
from multitask.errors import UserError
from multitask.export.huggingface import write_json
from multitask.export.onnx_files import ENTRY, file_outputs
from multitask.measure.evaluate import predicted_of, table_score
from ray_jobs.bundles.scoring import opened, outputs_of
from ray_jobs.screen import Screen


def what_it_costs(uri: str, bundle: Bundle, data: str | None, folder: Path, screen: Screen) -> list[str]:
    """Measures an ONNX export that lies in a folder, notes it in its onnx.json, and returns a line a task.

    An encoder without heads, and a bundle whose dev files are not known, are not measured, which the line says.
    """
    if not bundle.answers:
        return ["no head, so no metric was measured"]
    try:
        model, place = opened(uri, data, ["dev"])
    except UserError as error:
        if data:
            raise
        return [f"no metric was measured: {error}"]
    lines, said = [], json.loads((folder / ENTRY).read_text())
    for one in outputs_of(model, place, ["dev"], screen, tasks=bundle.answers):
        spec, task, metric, table = one.spec, one.spec.name, one.spec.metric, one.table
        found = predicted_of(file_outputs(bundle, task, folder / f"{task}.onnx", one.table), one.spec.label)

        whole, small = (
            table_score(spec, metric, table, said_of).value for said_of in (one.predicted(model.shares(task)), found)
        )
        said["outputs"][task]["measured"] = {"metric": metric, "rows": len(table), "int8": small, "float32": whole}
        lines.append(f"{task}: dev {metric} {_shown(small)}, of the bundle {_shown(whole)} ({len(table):,} rows)")
    write_json(folder / ENTRY, said)
    return lines


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"

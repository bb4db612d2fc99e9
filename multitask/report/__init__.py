"""The report of an experiment, or of an ensemble: report.html and report.md, from what lies in its folder."""

from __future__ import annotations

from multitask.bundle.ensemble import is_ensemble
from multitask.report.as_html import as_html
from multitask.report.as_markdown import as_markdown
from multitask.report.compose import compose
from multitask.report.ensemble import ensemble_report
from multitask.report.reading import read_evidence
from multitask.storage.storage import Storage
from multitask.storage.uris import join


def write_report(uri: str) -> list[str]:
    """Writes report.html and report.md into an experiment's or an ensemble's folder, any fsspec URI; returns both
    places.

    Raises UserError where there is no readable results.json, and no ensemble.json.
    """
    folder = Storage(uri)
    report = ensemble_report(folder) if is_ensemble(uri) else compose(read_evidence(folder))
    texts = {"report.html": as_html(report), "report.md": as_markdown(report)}
    for name, text in texts.items():
        folder.write_bytes(name, text.encode())
    return [join(folder.uri, name) for name in texts]

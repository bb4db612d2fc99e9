"""The report of an experiment, or of an ensemble: report.html and report.md, from what lies in its folder."""

from __future__ import annotations

from multitask.bundle.ensemble import is_ensemble
from multitask.errors import UserError
from multitask.report.against import Baseline, against
from multitask.report.as_html import as_html
from multitask.report.as_markdown import as_markdown
from multitask.report.blocks import Report
from multitask.report.compose import compose
from multitask.report.ensemble import ensemble_report
from multitask.report.reading import read_evidence
from multitask.storage.storage import Storage
from multitask.storage.uris import join


def write_report(uri: str, price: float | None = None) -> list[str]:
    """Writes report.html and report.md into an experiment's or an ensemble's folder, any fsspec URI; returns both
    places. price: of a worker's hour.

    Raises UserError where there is no readable results.json, and no ensemble.json.
    """
    return save_report(uri, report_of(uri, price))


def report_of(uri: str, price: float | None = None, baseline: Baseline | None = None) -> Report:
    """The report of an experiment, or of an ensemble.

    price: of a worker's hour. baseline: what an experiment is compared with. Raises UserError for an ensemble with
    either: it has trained nothing and has no stages.
    """
    folder = Storage(uri)
    if not is_ensemble(uri):
        evidence = read_evidence(folder)
        return compose(evidence, price, against(evidence, baseline) if baseline else None)
    if price is not None or baseline:
        option = "--against" if baseline else "--price"
        raise UserError(f"{option}: of an experiment; '{uri}' is an ensemble, which has trained nothing")
    return ensemble_report(folder)


def save_report(uri: str, report: Report) -> list[str]:
    """Writes a report's two files into a folder; returns their places."""
    folder, texts = Storage(uri), {"report.html": as_html(report), "report.md": as_markdown(report)}
    for name, text in texts.items():
        folder.write_bytes(name, text.encode())
    return [join(folder.uri, name) for name in texts]

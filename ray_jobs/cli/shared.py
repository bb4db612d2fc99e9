"""Options that several commands share, and what the shell offers for them at Tab."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

USER_ERROR = 2  # exit status


def _recipes(incomplete: str) -> list[str]:
    from multitask.recipe.packaged import packaged_recipes

    return [name for name in packaged_recipes() if name.startswith(incomplete)]


def _maps(incomplete: str) -> list[str]:
    from multitask.recipe.packaged import packaged_maps

    return [name for name in packaged_maps() if name.startswith(incomplete)]


def choices(*valid: str) -> Callable[[str], list[str]]:
    """Completion for an option with few values."""
    return lambda incomplete: [word for word in valid if word.startswith(incomplete)]


def examples(*lines: str) -> str:
    """What a command's --help ends with. \\b keeps click from filling the lines into a paragraph."""
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only what came of it.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output; all else goes to standard error.")
]
RecipeArgument = Annotated[
    str, typer.Argument(help="A recipe's YAML file, or the name of a packaged one.", autocompletion=_recipes)
]
DataOption = Annotated[
    str | None,
    typer.Option(help="The tasks' files: a directory, its URI, or a map such as glue.", autocompletion=_maps),
]
BundleArgument = Annotated[
    str,
    typer.Argument(help="A bundle: EXPERIMENT/STAGE (runs/demo/sst; sst#1 of a second seed), its directory, or URI."),
]
EncoderArgument = Annotated[
    str, typer.Argument(help="A bundle: EXPERIMENT/STAGE (runs/demo/sst), its directory, or URI; or an encoder's name.")
]
StorageOption = Annotated[str, typer.Option(help="Where everything goes; every worker must reach it.")]
ElasticOption = Annotated[
    str, typer.Option(metavar="N or MIN:MAX", help="0: this process. N: on N Ray workers. MIN:MAX: as many as fit.")
]
WorkersOption = Annotated[int, typer.Option(min=0, help="0: this process. N: on N Ray workers.")]
DeviceOption = Annotated[
    str,
    typer.Option(
        help="auto, cpu, or gpu: one for each worker; on a cluster, waits for nodes that have them.",
        autocompletion=choices("auto", "cpu", "gpu"),
    ),
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(help="Also to mlflow, or wandb; repeatable.", autocompletion=choices("mlflow", "wandb")),
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override: key=value, repeatable.")]
HostOption = Annotated[str, typer.Option(help="Another than this machine alone wants MINIBERT_TOKEN.")]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Where it listens.")]
PerClientOption = Annotated[
    int, typer.Option(min=1, help="Requests of one address at once; behind a proxy all come from the proxy's.")
]

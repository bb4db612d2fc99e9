"""`python -m tests.fuzz.one TARGET FOLDER`: one target's inputs, in a process of its own that ends with a finding."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import atheris

OURS = ["multitask", "lightning_modules", "ray_jobs"]  # what the inputs are steered by
MEMORY_MB, SECONDS, LONGEST = 3000, 10, 4096  # at most: of the process, of an input, of an input's bytes


def refusing(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """The target, to which a refusal of one line is no finding."""
    from multitask.errors import UserError

    def one(data: bytes) -> None:
        try:
            run(data)
        except UserError as error:
            assert "\n" not in str(error), "a refusal is one line"

    return one


if __name__ == "__main__":
    name, folder = sys.argv[1:]
    with atheris.instrument_imports(include=OURS):
        from tests.fuzz.targets import CORPUS, TARGETS
    target, known = TARGETS[name], CORPUS / name
    for at, seed in enumerate(target.seeds()):
        (Path(folder) / f"seed-{at}").write_bytes(seed)
    limits = [f"-runs={target.inputs}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={LONGEST}"]
    corpora = [folder, *([str(known)] if known.is_dir() else [])]
    atheris.Setup([name, *limits, "-seed=1", f"-artifact_prefix={folder}/", *corpora], refusing(target.run))
    atheris.Fuzz()

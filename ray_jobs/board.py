"""What rank 0 and the driver tell each other directly. A module of its own: its actor need not import torch."""

from __future__ import annotations

from typing import Any


class Board:
    """What rank 0 and the driver tell each other; a Ray actor."""

    def __init__(self) -> None:
        self.line: dict[str, Any] | None = None
        self.failure: tuple[str, str] | None = None
        self.stop = False

    def post(self, line: dict[str, Any]) -> bool:
        self.line = line
        return self.stop

    def fail(self, kind: str, message: str) -> None:
        self.failure = self.failure or (kind, message)

    def peek(self, stop: bool) -> tuple[dict[str, Any] | None, tuple[str, str] | None]:
        self.stop = stop
        return self.line, self.failure

"""What a schedule is: drawn from a seed and its number, each of another kind in turn."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests.s3 import LATE, WAYS
from tests.schedules.bucket import MODES
from tests.schedules.drivers import LAG, SWEEP, TRAIN

KINDS = (
    "reads and listings lag",
    "conditional writes",
    "credentials expire",
    "deletes are denied",
    "two drivers and a sweep",
)
SHARE = 0.05  # of all requests, that fail in one of the plain ways
FIRST, SECOND = "AKIAFIRST", "AKIASECOND"


@dataclass(frozen=True)
class Plan:
    """One schedule. rules: the server's. commands: what is started, each again until it is done. kills: after how many
    requests in all the commands that run are killed. expires: seconds after which the first credentials are refused;
    new_after: until there are new ones. fixed: they stand in the environment, where a driver that runs sees no others.
    """

    number: int
    seed: int
    kind: str
    rules: dict[str, Any]
    commands: tuple[tuple[str, ...], ...] = (TRAIN,)
    kills: tuple[int, ...] = ()
    pauses: tuple[float, ...] = (0.0,)
    expires: float | None = None
    new_after: float = 0.0
    fixed: bool = False
    fault: dict[str, Any] = field(default_factory=dict)


def plan(seed: int, number: int) -> Plan:
    draw = random.Random(f"{seed} {number}")
    kind = KINDS[number % len(KINDS)]
    rules: dict[str, Any] = {"seed": draw.randrange(1 << 30), "conditions": "kept"}
    fault = {"kind": "some", "share": SHARE, "seed": draw.randrange(1 << 30), "ways": [*WAYS, LATE], "pause": 0.4}
    more: dict[str, Any] = {"kills": _kills(draw), "commands": (draw.choice((TRAIN, TRAIN, SWEEP)),)}
    if kind == KINDS[0]:
        rules |= {"lag": LAG * draw.uniform(0.1, 0.6), "conditions": draw.choice(MODES)}
    elif kind == KINDS[1]:
        rules |= {"conditions": draw.choice(MODES), "lag": draw.choice((0.0, 0.5))}
        more |= {"commands": draw.choice(((TRAIN, TRAIN), (SWEEP, SWEEP)))}
    elif kind == KINDS[2]:
        rules |= {"answer": list(draw.choice(((400, "ExpiredToken"), (403, "ExpiredToken"), (401, "Unauthorized"))))}
        more |= {
            "expires": draw.uniform(0.1, 2.0),
            "new_after": draw.choice((0.0, 0.5, 2.0)),
            "fixed": draw.random() < 0.3,
        }
    elif kind == KINDS[3]:
        rules |= {"denied": ["DELETE"], "lag": draw.choice((0.0, 0.0, 0.5))}
    else:
        more |= {"commands": (TRAIN, TRAIN, SWEEP)}
        rules |= {"conditions": draw.choice(MODES), "lag": draw.choice((0.0, 0.5, 1.5))}
    more["pauses"] = tuple(draw.choice((0.0, 0.0, draw.uniform(0, 2))) for _ in more["commands"])
    return Plan(number, seed, kind, rules, fault=fault, **more)


def _kills(draw: random.Random) -> tuple[int, ...]:
    """None, one or two moments, counted in requests: a run makes some four hundred."""
    return tuple(sorted(draw.randrange(20, 500) for _ in range(draw.choice((0, 0, 1, 1, 2)))))

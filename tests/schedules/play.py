"""Plays one schedule: a server in a process, the commands in others, each started again until it is done."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.schedules.bucket import Bucket, Rules, control, environment
from tests.schedules.drivers import Command, Started, forked, results
from tests.schedules.plans import FIRST, SECOND, Plan

STARTS = 20  # of one command, before it counts as one that does not go on
SECONDS = 120.0  # for all of a schedule


@dataclass
class Played:
    """What came of a schedule. wrong: "" where every result is the undisturbed one's. refusals: starts that ended with
    status 2 and one line. seconds: until the last command was done."""

    number: int
    kind: str
    wrong: str = ""
    faults: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    refusals: int = 0
    kills: int = 0
    starts: int = 0
    seconds: float = 0.0


class Player:
    def __init__(self, plan: Plan, expected: dict[str, dict[str, Any]]) -> None:
        self.plan, self.expected = plan, expected
        self.folder = Path(tempfile.mkdtemp(prefix=f"schedule-{plan.number}-"))
        self.played = Played(plan.number, plan.kind)
        self.kills = list(plan.kills)

    def play(self) -> Played:
        """The folder stays where something is wrong."""
        began, server = time.monotonic(), self._serve()
        try:
            self._all_done()
            self.played.seconds = time.monotonic() - began
            self._count()
            control(self.url, kind="none", rules={"lag": 0.0, "denied": [], "expired": {}})
            self._compare()
        except Exception as error:
            self.played.wrong = f"{type(error).__name__}: {error}"
        finally:
            for running in self.running.values():
                running.kill()
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
        if self.played.wrong:
            self.played.wrong += f"; {self.folder}"
        else:
            shutil.rmtree(self.folder)
        return self.played

    def _serve(self) -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        rules = Rules(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in self.plan.rules.items()}
        )
        process = forked(lambda: Bucket(rules, port).serve_forever(0.05), self.folder / "server.txt")
        self.url, self.running = f"http://127.0.0.1:{port}", dict[int, Started]()
        for _ in range(200):
            try:
                control(self.url, **self.plan.fault)
                break
            except OSError:
                time.sleep(0.02)
        self.keys = self.folder / "credentials"
        self._give(FIRST)
        self.environment = {**environment(self.url), "AWS_SHARED_CREDENTIALS_FILE": str(self.keys)}
        if self.plan.expires is not None:
            control(self.url, rules={"expired": {FIRST: time.time() + self.plan.expires}})
            self.new_at = time.monotonic() + self.plan.expires + self.plan.new_after
        else:
            self.new_at = float("inf")
        return process

    def _give(self, key: str) -> None:
        draft = self.folder / "credentials.part"
        draft.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = x\naws_session_token = t\n")
        os.replace(draft, self.keys)
        self.key = key

    def _commands(self) -> list[Command]:
        found = []
        for at, words in enumerate(self.plan.commands):
            machine = "here" if at == 0 else f"machine {at}"
            found.append(Command(words, "s3://bucket/runs", self.folder / f"driver-{at}", self.environment, machine))
        return found

    def _all_done(self) -> None:
        """Every command until it has ended with status 0, those of the same experiment each for itself."""
        commands, starts, until = self._commands(), Counter[int](), time.monotonic() + SECONDS
        begin_at = [time.monotonic() + pause for pause in self.plan.pauses]
        done: set[int] = set()
        while len(done) < len(commands):
            if time.monotonic() > until:
                raise AssertionError(
                    f"not done after {SECONDS:g} s: {[run.said()[-500:] for run in self.running.values()]}"
                )
            if time.monotonic() >= self.new_at and self.key == FIRST:
                self._give(SECOND)
            for at, command in enumerate(commands):
                if at in done:
                    continue
                if at in self.running and self.running[at].poll():
                    ended = self.running.pop(at)
                    if self._is_done(ended):
                        done.add(at)
                    begin_at[at] = time.monotonic() + (1.0 if ended.status == 2 else 0.2)
                elif at not in self.running and time.monotonic() >= begin_at[at]:
                    starts[at] += 1
                    assert starts[at] <= STARTS, f"{command.words[0]} does not go on"
                    if self.plan.fixed:
                        command.environment = {
                            **self.environment,
                            "AWS_ACCESS_KEY_ID": self.key,
                            "AWS_SECRET_ACCESS_KEY": "x",
                        }
                    self.running[at] = command.start()
                    self.played.starts += 1
            self._kill()
            time.sleep(0.02)

    def _kill(self) -> None:
        if self.kills and control(self.url)["requests"] >= self.kills[0]:
            self.kills.pop(0)
            for running in self.running.values():
                running.kill()
            self.played.kills += 1

    def _is_done(self, ended: Started) -> bool:
        """Done, or ended as a user can read it; anything else is wrong."""
        said = ended.said()
        if ended.status == 0:
            return True
        if ended.status == -signal.SIGKILL:
            return False
        last = said.strip().splitlines()[-1] if said.strip() else ""
        if last.startswith("minibert: ") and ended.status == 2:
            self.played.refusals += 1
            if "Traceback" not in said:
                return False
        raise AssertionError(f"status {ended.status}: {said[-1500:]}")

    def _count(self) -> None:
        counts = control(self.url)
        known = {"GET", "HEAD", "PUT", "POST", "DELETE", "requests"}
        self.played.counts = {name: count for name, count in counts.items() if name not in known}
        self.played.faults = sum(self.played.counts.values())

    def _compare(self) -> None:
        for words in dict.fromkeys(self.plan.commands):
            command = next(command for command in self._commands() if command.words == words)
            sound = {**self.environment, "AWS_ACCESS_KEY_ID": SECOND, "AWS_SECRET_ACCESS_KEY": "x"}
            found = results(command.storage, command.experiment, sound, self.folder)
            expected = self.expected[words[0]]
            assert found.keys() == expected.keys(), f"{words[0]}: stages {sorted(found)}"
            for stage in expected:
                other = [key for key, value in expected[stage].items() if found[stage][key] != value]
                assert not other, f"{words[0]}, {stage}: other {', '.join(other)} than undisturbed"

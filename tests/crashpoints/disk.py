"""A file system's operations as a log, and the states that a crash after any of them may leave.

A kill leaves all that was done so far. A power loss keeps what was synced: a file's content by fsync of the file, the
entries of a directory (what was made, renamed or removed there) by fsync of the directory. All else may be lost, and
any part of it alone: content lost, cut or zeros; an entry's change undone, together with those that could not have been
made without it.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

ROOT = 0  # the directory that everything lies in; it was there before
NEAREST = 8  # entries not synced that are undone alone, the newest ones
Tail = Literal["whole", "lost", "cut", "zeros"]


@dataclass(frozen=True)
class Entries:
    """One change of directories, whole or not at all. changes: directory, name, the inode that the name then has, or
    None. removed: the directory that is no more."""

    changes: tuple[tuple[int, str, int | None], ...]
    removed: int | None = None


@dataclass(frozen=True)
class Write:
    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Resize:
    inode: int
    size: int


@dataclass(frozen=True)
class Sync:
    """covers: the operations before that number, which were done when it began."""

    inode: int
    covers: int


Operation = Entries | Write | Resize | Sync


@dataclass(frozen=True)
class State:
    """What may lie on the disk. kind: how it came about. after: the operations that were done. undone: of those, by
    number, the entries that were lost; tails: of a file, what became of what was not synced."""

    kind: Literal["kill", "power"]
    after: int
    undone: frozenset[int] = frozenset()
    tails: tuple[tuple[int, Tail], ...] = ()


@dataclass
class Log:
    """directories, files: by inode, as they were at the beginning, which is on the disk. names: of operations, for
    people. made: the inodes that are directories made since."""

    directories: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    files: dict[int, bytes] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    made: set[int] = field(default_factory=set)

    @cached_property
    def _contents(self) -> dict[int, list[int]]:
        """Inode -> the numbers of the operations on its content, syncs among them."""
        found: dict[int, list[int]] = defaultdict(list)
        for number, operation in enumerate(self.operations):
            if not isinstance(operation, Entries):
                found[operation.inode].append(number)
        return found

    @cached_property
    def _digests(self) -> dict[tuple[int, int, Tail], str]:
        return {}

    def states(self, random_: random.Random) -> Iterator[State]:
        """Every state after a kill, and many after a power loss; different ones alone."""
        seen: set[str] = set()
        for state in self.candidates(random_):
            if (found := self.digest(state)) not in seen:
                seen.add(found)
                yield state

    def candidates(self, random_: random.Random) -> Iterator[State]:
        for after in range(len(self.operations) + 1):
            yield State("kill", after)
        for after in range(1, len(self.operations) + 1):
            loose, dirty = self.loose(after), self._dirty(after)
            yield self._power(after, loose, dict.fromkeys(dirty, "lost"))
            yield self._power(after, [], dict.fromkeys(dirty, "lost"))
            yield self._power(after, loose, {})
            for inode in dirty:
                for tail in ("cut", "zeros"):
                    yield self._power(after, [], {inode: tail})
            for number in loose[-NEAREST:]:
                yield self._power(after, [number], {})
            some = [number for number in loose if random_.random() < 0.5]
            tails: list[Tail] = ["whole", "lost", "cut", "zeros"]
            yield self._power(after, some, {inode: random_.choice(tails) for inode in dirty})

    def _power(self, after: int, undone: list[int], tails: Mapping[int, Tail]) -> State:
        return State("power", after, self._with_followers(after, undone), tuple(sorted(tails.items())))

    def loose(self, after: int) -> list[int]:
        """The numbers of the changes of entries that a power loss may undo."""
        synced: dict[int, int] = {}
        for operation in self.operations[:after]:
            if isinstance(operation, Sync):
                synced[operation.inode] = max(operation.covers, synced.get(operation.inode, 0))
        found, bound = [], set[tuple[int, str]]()  # names whose changes so far are on the disk
        gone = set[int | None]()  # directories whose removal is: what became of their entries before is, too
        for number in range(after - 1, -1, -1):
            operation = self.operations[number]
            if isinstance(operation, Entries):
                keys = {(directory, name) for directory, name, _ in operation.changes}
                done = any(synced.get(directory, 0) > number or directory in gone for directory, _ in keys)
                if keys & bound or done:
                    bound |= keys
                    gone.add(operation.removed)
                else:
                    found.append(number)
        return found[::-1]

    def _with_followers(self, after: int, undone: list[int]) -> frozenset[int]:
        """The changes of those numbers, and all that could not have been made without them."""
        if not undone:
            return frozenset()
        lost, keys, emptied = set(undone), set[tuple[int, str]](), set[int]()
        for number in range(min(undone), after):
            operation = self.operations[number]
            if isinstance(operation, Entries):
                own = {(directory, name) for directory, name, _ in operation.changes}
                if number in lost or own & keys or operation.removed in emptied:
                    lost.add(number)
                    keys |= own
                    emptied |= {directory for directory, _ in own}
        return frozenset(lost)

    def _dirty(self, after: int) -> list[int]:
        """The files with content that is not synced."""
        last: dict[int, int] = {}
        covered: dict[int, int] = {}
        for number, operation in enumerate(self.operations[:after]):
            if isinstance(operation, Sync):
                covered[operation.inode] = max(operation.covers, covered.get(operation.inode, 0))
            elif not isinstance(operation, Entries):
                last[operation.inode] = number
        return [inode for inode, number in last.items() if number >= covered.get(inode, 0)]

    def tree(self, state: State) -> tuple[list[str], dict[str, int]]:
        """The directories, and the files with their inodes, by path."""
        names = {inode: dict(entries) for inode, entries in self.directories.items()}
        for number, operation in enumerate(self.operations[: state.after]):
            if isinstance(operation, Entries) and number not in state.undone:
                for directory, name, inode in operation.changes:
                    if inode is None:
                        names.setdefault(directory, {}).pop(name, None)
                    else:
                        names.setdefault(directory, {})[name] = inode
        folders: list[str] = []
        files: dict[str, int] = {}
        waiting = [("", ROOT)]
        while waiting:
            path, inode = waiting.pop()
            for name, child in sorted(names.get(inode, {}).items()):
                at = f"{path}/{name}" if path else name
                if child in self._all_directories:
                    folders.append(at)
                    waiting.append((at, child))
                else:
                    files[at] = child
        return sorted(folders), files

    @cached_property
    def _all_directories(self) -> set[int]:
        return {*self.directories, *self.made}

    def content(self, state: State, inode: int) -> bytes:
        tail = dict(state.tails).get(inode, "whole")
        done = [number for number in self._contents.get(inode, []) if number < state.after]
        covered = max((part.covers for at in done if isinstance(part := self.operations[at], Sync)), default=0)
        safe = self._applied(inode, [number for number in done if number < covered])
        if tail == "lost":
            return safe
        whole = self._applied(inode, done)
        if tail == "cut":
            return whole[: (len(safe) + len(whole)) // 2 if len(safe) < len(whole) else len(whole) // 2]
        if tail == "zeros":
            kept = safe[: len(whole)] if whole.startswith(safe) else b""
            return kept + bytes(len(whole) - len(kept))
        return whole

    def _applied(self, inode: int, numbers: list[int]) -> bytes:
        content = bytearray(self.files.get(inode, b""))
        for number in numbers:
            operation = self.operations[number]
            if isinstance(operation, Write):
                end = operation.offset + len(operation.data)
                content.extend(bytes(max(0, end - len(content))))
                content[operation.offset : end] = operation.data
            elif isinstance(operation, Resize):
                del content[operation.size :]
                content.extend(bytes(operation.size - len(content)))
        return bytes(content)

    def digest(self, state: State) -> str:
        """Equal for equal states, however they came about."""
        folders, files = self.tree(state)
        found = hashlib.sha256("\n".join(folders).encode())
        for path, inode in sorted(files.items()):
            found.update(f"\n{path} {self._digest(state, inode)}".encode())
        return found.hexdigest()

    def _digest(self, state: State, inode: int) -> str:
        done = [number for number in self._contents.get(inode, []) if number < state.after]
        key = (inode, done[-1] if done else -1, dict(state.tails).get(inode, "whole"))
        if key not in self._digests:
            self._digests[key] = hashlib.sha256(self.content(state, inode)).hexdigest()
        return self._digests[key]

    def build(self, state: State, folder: Path) -> Callable[[], None]:
        """Lays the state out in an empty folder. What is returned is for a bucket, whose listings may lag."""
        folders, files = self.tree(state)
        for path in folders:
            (folder / path).mkdir()
        for path, inode in files.items():
            (folder / path).write_bytes(self.content(state, inode))
        return lambda: None

    def told(self, state: State) -> str:
        """The state in a few words."""
        last = self.names[state.after - 1] if state.after else "the beginning"
        lost = [self.names[number] for number in sorted(state.undone)]
        paths = {inode: path for path, inode in self.tree(State("kill", state.after))[1].items()}
        tails = [f"content of {paths.get(inode, inode)}: {tail}" for inode, tail in state.tails]
        return f"{state.kind} after {state.after} ({last}); not kept: {', '.join([*lost, *tails]) or 'nothing else'}"

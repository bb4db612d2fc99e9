"""What a process does to the files below a directory, by strace, as a Log with contents."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.crashpoints.disk import ROOT, Entries, Log, Resize, State, Sync, Write

CALLS = (
    "open,openat,creat,close,write,pwrite64,writev,pwritev,pwritev2,lseek,rename,renameat,renameat2,unlink,unlinkat,"
    "mkdir,mkdirat,rmdir,fsync,fdatasync,sync,syncfs,ftruncate,truncate,dup,dup2,dup3,fcntl,link,linkat,symlink,"
    "symlinkat,sendfile,copy_file_range,fallocate,mmap,clone,clone3,fork,vfork"
)
LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(?:<((?:\\x[0-9a-f]{2})*)>)?[^\"]*$", re.DOTALL)
UNFINISHED, RESUMED = " <unfinished ...>", re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)", re.DOTALL)
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
PLACE = re.compile(r"^(?:AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2})*)>")


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def traced(work: Callable[[], None], root: Path, scratch: Path) -> Log:
    """Runs `work` in a child of this process; what it did below `root`, which holds what was there before.

    Raises RuntimeError where it fails, or does to files what no Log can say.
    """
    if shutil.which("strace") is None:
        sys.exit("crashpoints: strace is not there; it says what a run does to its files: apt-get install strace")
    recorder, log = Recorder(root), scratch / "strace.log"
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.read(read, 1)
        work()
        os._exit(0)
    options = f"-f -y -xx -s {1 << 28} -e trace={CALLS} -p {child}"  # threads, paths of descriptors, whole contents
    command = ["strace", *options.split(), "-o", str(log)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr
    said = tracer.stderr.readline()
    if "attached" not in said:
        os.kill(child, 9)
        os.waitpid(child, 0)
        raise RuntimeError(f"strace: {said}")
    os.write(write, b".")
    _, status = os.waitpid(child, 0)
    tracer.communicate()
    os.close(read)
    os.close(write)
    if status:
        raise RuntimeError(f"the traced run ended with {os.waitstatus_to_exitcode(status)}")
    with open(log) as lines:
        for process, call, arguments, result, path in _calls(lines):
            recorder.see(process, call, arguments, result, path)
    log.unlink()
    _check(recorder.log, root)
    return recorder.log


def _check(log: Log, root: Path) -> None:
    """What a kill at the very end leaves has to be what lies there."""
    end = State("kill", len(log.operations))
    folders, files = log.tree(end)
    paths = {str(path.relative_to(root)): path for path in root.rglob("*")}
    there = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
    if {name: log.content(end, inode) for name, inode in files.items()} != there or {*folders, *files} != {*paths}:
        raise RuntimeError(f"strace has not seen all that was done below {root}")


def _calls(lines: Iterator[str]) -> Iterator[tuple[int, str, str, int, str]]:
    """Each call when it had returned; those that failed have changed nothing.

    While one thread is in a call others make theirs: a descriptor is free as soon as it begins to be closed, and what
    is done while something is synced need not be on the disk then, so that a sync is told of when it begins, too.
    """
    begun: dict[str, str] = {}
    for line in lines:
        line = line.rstrip("\n")
        if line.endswith(UNFINISHED):
            process, _, call = line.removesuffix(UNFINISHED).partition(" ")
            begun[process] = f"{process} {call}"
            if call.lstrip().startswith("close("):
                line = f"{begun.pop(process)}) = 0"
            elif call.lstrip().startswith(("fsync(", "fdatasync(")):
                yield int(process), "begin_sync", "", 0, ""
                continue
            else:
                continue
        elif resumed := RESUMED.fullmatch(line):
            if resumed[1] not in begun:  # a close
                continue
            line = begun.pop(resumed[1]) + resumed[2]
        found = LINE.fullmatch(line)
        if found and found[4] != "?" and int(found[4]) >= 0:
            path = os.fsdecode(_bytes(found[5])) if found[5] else ""
            yield int(found[1]), found[2], found[3], int(found[4]), path


class Recorder:
    """From calls to operations. Numbers of its own stand for inodes."""

    def __init__(self, root: Path) -> None:
        self.root, self.log, self._next = str(root), Log(), ROOT
        self.names: dict[int, dict[str, int]] = self.log.directories  # as they were; then copied, and kept as they are
        self._scan(root, ROOT)
        self.names = {inode: dict(entries) for inode, entries in self.log.directories.items()}
        self.open: dict[int, list[int]] = {}  # descriptor -> inode and offset, shared by what dup made
        self.others: set[int] = set()  # processes that the traced one has started
        self.thread = 0
        self.syncing: dict[int, int] = {}  # thread -> how many operations there were when its sync began

    def _scan(self, folder: Path, inode: int) -> None:
        self.log.directories[inode] = {}
        for path in sorted(folder.iterdir()):
            self._next += 1
            child = self.log.directories[inode][path.name] = self._next
            if path.is_dir():
                self._scan(path, child)
            else:
                self.log.files[child] = path.read_bytes()

    def see(self, process: int, call: str, arguments: str, result: int, path: str) -> None:
        if call in ("clone", "clone3", "fork", "vfork"):
            if "CLONE_THREAD" not in arguments:
                self.others.add(result)
        elif process not in self.others:
            self.thread = process
            handler = getattr(self, f"_{HANDLERS.get(call, call)}", None)
            if handler is None:
                self._refuse(call, arguments)
            else:
                handler(arguments, result, path)

    def _refuse(self, call: str, arguments: str) -> None:
        named = [os.fsdecode(_bytes(text)) for text in re.findall(r"(?:\\x[0-9a-f]{2})+", arguments)]
        if any(self._below(path) for path in named):
            raise RuntimeError(f"{call} below {self.root}: no Log can say that: {arguments[:200]}")

    def _paths(self, arguments: str) -> list[str]:
        """The paths that a call names, absolute."""
        found, rest = [], arguments
        base = os.getcwd()
        for part in re.finditer(r'(?:(?:AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2})*)>, )?"((?:\\x[0-9a-f]{2})*)"', rest):
            if part[1] is not None:
                base = os.fsdecode(_bytes(part[1]))
            found.append(os.path.normpath(os.path.join(base, os.fsdecode(_bytes(part[2])))))
        return found

    def _below(self, path: str) -> str | None:
        return os.path.relpath(path, self.root) if path.startswith(self.root + "/") else None

    def _find(self, path: str) -> tuple[int, str, int | None]:
        """A path's directory, its name, and its inode where there is one."""
        inode, parts = ROOT, path.split("/")
        for part in parts[:-1]:
            inode = self.names[inode][part]
        return inode, parts[-1], self.names[inode].get(parts[-1])

    def _change(self, said: str, *changes: tuple[int, str, int | None], removed: int | None = None) -> None:
        for directory, name, inode in changes:
            if inode is None:
                del self.names[directory][name]
            else:
                self.names[directory][name] = inode
        self._do(Entries(changes, removed), said)

    def _do(self, operation: Entries | Write | Resize | Sync, said: str) -> None:
        self.log.operations.append(operation)
        self.log.names.append(said)

    def _make(self) -> int:
        self._next += 1
        return self._next

    def _openat(self, arguments: str, result: int, real: str) -> None:
        self.open.pop(result, None)
        path = self._below(real.removesuffix(" (deleted)"))
        if real == self.root:
            self.open[result] = [ROOT, 0]
        if path is None:
            return
        directory, name, inode = self._find(path)
        if inode is None:
            if "O_CREAT" not in arguments:
                raise RuntimeError(f"opened {path}, which was never made")
            inode = self._make()
            self._change(f"create {path}", (directory, name, inode))
        elif "O_TRUNC" in arguments:
            self._do(Resize(inode, 0), f"truncate {path}")
        self.open[result] = [inode, 0]

    def _close(self, arguments: str, result: int, path: str) -> None:
        self.open.pop(int(re.match(r"\d+", arguments)[0]), None)  # type: ignore[index]

    def _opened(self, arguments: str) -> list[int] | None:
        return self.open.get(int(re.match(r"\d+", arguments)[0]))  # type: ignore[index]

    def _write(self, arguments: str, result: int, path: str) -> None:
        if opened := self._opened(arguments):
            data = b"".join(_bytes(text) for text in STRING.findall(arguments))[:result]
            self._do(Write(opened[0], opened[1], data), f"write {result} bytes to {self._name(arguments)}")
            opened[1] += result

    def _pwrite64(self, arguments: str, result: int, path: str) -> None:
        if opened := self._opened(arguments):
            data = b"".join(_bytes(text) for text in STRING.findall(arguments))[:result]
            offset = int(arguments.rpartition(", ")[2])
            self._do(Write(opened[0], offset, data), f"write {result} bytes to {self._name(arguments)}")

    def _name(self, arguments: str) -> str:
        found = PLACE.match(arguments)
        return (self._below(os.fsdecode(_bytes(found[1]))) if found else None) or "."

    def _lseek(self, arguments: str, result: int, path: str) -> None:
        if opened := self._opened(arguments):
            opened[1] = result

    def _ftruncate(self, arguments: str, result: int, path: str) -> None:
        if opened := self._opened(arguments):
            size = int(arguments.rpartition(", ")[2])
            self._do(Resize(opened[0], size), f"resize {self._name(arguments)}")

    def _begin_sync(self, arguments: str, result: int, path: str) -> None:
        self.syncing[self.thread] = len(self.log.operations)

    def _fsync(self, arguments: str, result: int, path: str) -> None:
        covers = self.syncing.pop(self.thread, len(self.log.operations))
        if opened := self._opened(arguments):
            self._do(Sync(opened[0], covers), f"fsync {self._name(arguments)}")

    def _dup(self, arguments: str, result: int, path: str) -> None:
        self.open.pop(result, None)
        if opened := self._opened(arguments):
            self.open[result] = opened

    def _fcntl(self, arguments: str, result: int, path: str) -> None:
        if "F_DUPFD" in arguments:
            self._dup(arguments, result, path)

    def _mmap(self, arguments: str, result: int, path: str) -> None:
        if "MAP_SHARED" in arguments and "PROT_WRITE" in arguments:
            self._refuse("mmap", arguments)

    def _rename(self, arguments: str, result: int, path: str) -> None:
        source, target = (self._below(name) for name in self._paths(arguments))
        if source and target:
            (one, old, inode), (other, new, _) = self._find(source), self._find(target)
            self._change(f"rename {source} to {target}", (one, old, None), (other, new, inode))
        elif source or target:
            raise RuntimeError(f"rename over the edge of {self.root}: {source} to {target}")

    def _unlink(self, arguments: str, result: int, path: str) -> None:
        if target := self._below(self._paths(arguments)[0]):
            directory, name, inode = self._find(target)
            removed = inode if "AT_REMOVEDIR" in arguments else None
            self._change(f"remove {target}", (directory, name, None), removed=removed)

    def _rmdir(self, arguments: str, result: int, path: str) -> None:
        self._unlink(arguments + "AT_REMOVEDIR", result, path)

    def _mkdir(self, arguments: str, result: int, path: str) -> None:
        if target := self._below(self._paths(arguments)[0]):
            directory, name, _ = self._find(target)
            inode = self._make()
            self.names[inode] = {}
            self.log.made.add(inode)
            self._change(f"make {target}/", (directory, name, inode))


HANDLERS = {
    **dict.fromkeys(("open", "creat"), "openat"),
    **dict.fromkeys(("renameat", "renameat2"), "rename"),
    **dict.fromkeys(("unlinkat",), "unlink"),
    **dict.fromkeys(("mkdirat",), "mkdir"),
    **dict.fromkeys(("fdatasync",), "fsync"),
    **dict.fromkeys(("writev",), "write"),
    **dict.fromkeys(("dup2", "dup3"), "dup"),
}

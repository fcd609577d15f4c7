"""A disk that forgets, in a loss of power, whatever was not forced to it.

`Disk` notes what a process does below a folder. `after` is what may be there if power is lost after so many
operations: of a file that was not synced all, half or nothing; of the names that were made, changed and taken
in a folder since it was synced, any of them.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Node:
    """A file or a folder."""

    data: bytes | None = None  # of a file
    synced: bool = False
    names: dict[str, "Node"] = field(default_factory=dict)  # of a folder, when it was synced last
    since: list[tuple[str | None, str | None, Any]] = field(default_factory=list)  # (taken, given, to what)


class Disk:
    """Notes every operation, by patching `os`. `said(x)` notes what the process has announced by then."""

    def __init__(self, root: Path, monkeypatch: Any) -> None:
        self.root, self.log = root, list[tuple[Any, ...]]()
        for name in ("open", "mkdir", "rename", "replace", "unlink", "fsync"):
            monkeypatch.setattr(os, name, self._noting(getattr(self, f"_{name}"), getattr(os, name)))

    def said(self, what: Any) -> None:
        self.log.append(("said", what))

    def after(self, count: int, choose: Callable[[list[Any]], Any]) -> tuple[dict[str, bytes], Any]:
        """The files that are there if power is lost after `count` operations, and what was said last.

        `choose` picks one of a list, the best of which comes first.
        """
        nodes, said = {os.stat(self.root).st_ino: Node()}, None
        for kind, *what in self.log[:count]:
            if kind == "said":
                (said,) = what
            elif kind == "sync" and what[0] in nodes:
                node = nodes[what[0]]
                node.names, node.since, node.synced = self._names(node, lambda kept: kept[0]), [], True
            elif kind == "names" and what[0] in nodes:
                folder, taken, given, number, data, new = what
                if new:
                    nodes[number] = Node(data)
                elif number is not None and data is not None:
                    nodes[number].data = data  # what it was given until now
                nodes[folder].since.append((taken, given, nodes.get(number)))
        top = nodes[os.stat(self.root).st_ino]
        return dict(self._files(top, "", choose)), said

    def _names(self, node: Node, choose: Callable[[list[Any]], Any]) -> dict[str, Node]:
        names = dict(node.names)
        for taken, given, what in node.since:
            if choose([True, False]):
                names.pop(taken, None)
                if given is not None:
                    names[given] = what
        return names

    def _files(
        self, node: Node, path: str, choose: Callable[[list[Any]], Any]
    ) -> Iterator[tuple[str, bytes]]:
        for name, below in self._names(node, choose).items():
            if below.data is None:
                yield from self._files(below, f"{path}{name}/", choose)
            else:
                half = below.data[: len(below.data) // 2]
                yield path + name, below.data if below.synced else choose([below.data, half, b""])

    def _noting(self, note: Callable[..., None], real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **more: Any) -> Any:
            return note(real, *args, **more)

        return act

    def _folder(self, path: Any, dir_fd: int | None) -> tuple[int, str]:
        """The number of the folder that an entry is in, and the entry's name."""
        above, name = os.path.split(os.fspath(path))
        assert not (above and dir_fd is not None)
        return (os.stat(above or ".") if dir_fd is None else os.fstat(dir_fd)).st_ino, name

    def _open(self, real: Any, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        fd = real(path, flags, mode, dir_fd=dir_fd)
        if flags & os.O_CREAT:
            assert flags & os.O_EXCL
            folder, name = self._folder(path, dir_fd)
            self.log.append(("names", folder, None, name, os.fstat(fd).st_ino, b"", True))
        return fd

    def _mkdir(self, real: Any, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        real(path, mode, dir_fd=dir_fd)
        folder, name = self._folder(path, dir_fd)
        number = os.stat(path, dir_fd=dir_fd).st_ino
        self.log.append(("names", folder, None, name, number, None, True))

    def _rename(
        self, real: Any, old: Any, new: Any, *, src_dir_fd: Any = None, dst_dir_fd: Any = None
    ) -> None:
        folder, name = self._folder(old, src_dir_fd)
        assert self._folder(new, dst_dir_fd)[0] == folder
        real(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        here = Path(new) if src_dir_fd is None else Path(f"/proc/self/fd/{src_dir_fd}") / new
        data = here.read_bytes() if here.is_file() else None
        self.log.append(("names", folder, name, os.path.basename(new), here.stat().st_ino, data, False))

    _replace = _rename

    def _unlink(self, real: Any, path: Any, *, dir_fd: int | None = None) -> None:
        real(path, dir_fd=dir_fd)
        folder, name = self._folder(path, dir_fd)
        self.log.append(("names", folder, name, None, None, None, False))

    def _fsync(self, real: Any, fd: int) -> None:
        self.log.append(("sync", os.fstat(fd).st_ino))

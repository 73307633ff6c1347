"""A directory of files that changes together with databases, or not at all.

    resources = {"docs": "files:///srv/docs", "catalogue": "sqlite:////srv/catalogue.db"}
    with manager.transaction() as tx:
        docs = tx.connect("docs")
        docs.write("articles/one.txt", b"...")
        docs.delete("articles/old.txt")
        tx.connect("catalogue").execute("INSERT INTO article VALUES ('one')")

What is written goes into a hidden folder first. Before the vote it is forced to the disk; the commit only renames
files and removes others, and can be done again after a crash, as often as it takes:

    .syncpoint/syncpoint.db    what Syncpoint keeps of this directory
    .syncpoint/staged/…        contents of the files of the one transaction that is at work or in doubt

Nobody ever sees half of a file. Who looks during a commit may see some of its files changed and others not yet, and
the databases before or after the files: docs/files.md. It is also the worked example of a resource manager of one's
own (docs/resource-managers.md): it uses what every author has. Not for: modes, owners and times of files; symbolic
links.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from syncpoint.errors import ConfigurationError
from syncpoint.resources.own import ResourceManager

HIDDEN = ".syncpoint"
STATE_FORMAT = 1


class FileDirectory(ResourceManager):
    """An existing folder: the path of a URL, `files:///srv/docs`; or, beside `class`, the option `path`."""

    option_names = frozenset({"path"})

    def __init__(self, name: str, url: str, options: Mapping[str, str]) -> None:
        super().__init__(name, url, options)
        self.root = Path(os.path.abspath(_path(name, url, options)))
        self.staged = self.root / HIDDEN / "staged"

    def place(self) -> str:
        return str(self.root / HIDDEN)

    def check(self) -> None:
        if not self.root.is_dir():
            raise FileNotFoundError(f"there is no folder {self.root}")

    # --- a work --------------------------------------------------------------------------------------------

    def begin(self, *, read_only: bool) -> FilesWork:
        if not read_only:
            shutil.rmtree(self.staged, ignore_errors=True)  # of works whose process died before their vote
            self.staged.mkdir(parents=True)
        return FilesWork(self, read_only=read_only)

    def wrote(self, work: FilesWork) -> bool:
        return bool(work.changes)

    def prepare(self, work: FilesWork) -> bytes | None:
        """The state information: what becomes of each name. The contents are in the hidden folder by then."""
        if not work.changes:
            return None
        for name, content in work.changes.items():
            self._require_possible(name, is_write=content is not None)
        staged = filter(None, work.changes.values())
        digests = {content: _force(self.staged / content) for content in staged}
        for folder in (self.staged, self.staged.parent, self.root):
            _force(folder)
        changes = [(name, content, digests.get(content or "")) for name, content in work.changes.items()]
        return json.dumps([STATE_FORMAT, changes]).encode()

    def commit(self, state: bytes) -> None:
        """Rename and remove. What was done before a crash is found done."""
        version, changes = json.loads(state)
        if version != STATE_FORMAT:
            raise ValueError(f"this state information has format {version}, and this program knows {STATE_FORMAT}")
        touched = set()
        for name, content, digest in changes:
            target = self.root / name
            if content is None:
                target.unlink(missing_ok=True)
            else:
                self._put(self.staged / content, target, digest)
            touched.add(target.parent)
        for folder in filter(Path.is_dir, sorted(touched)):
            _force(folder)
        shutil.rmtree(self.staged, ignore_errors=True)

    def abort(self, work: FilesWork) -> None:
        if not work.read_only:
            shutil.rmtree(self.staged, ignore_errors=True)

    def savepoint(self, work: FilesWork) -> dict[str, str | None]:
        return dict(work.changes)

    def roll_back_to(self, work: FilesWork, mark: dict[str, str | None]) -> None:
        work.changes = dict(mark)

    # --- files ----------------------------------------------------------------------------------------------

    def locate(self, name: str) -> Path:
        """Where a name is. Raises ValueError when it would be outside, or hidden."""
        parts = name.split("/")
        if not all(parts) or {".", ".."} & set(parts) or "\0" in name or parts[0] == HIDDEN:
            raise ValueError(f"{name!r} is no name of a file in {self.root}; write for example 'articles/one.txt'")
        place = self.root
        for part in parts:
            place /= part
            if place.is_symlink():
                raise ValueError(f"{name!r} leads over the symbolic link {place}")
        return place

    def _require_possible(self, name: str, *, is_write: bool) -> None:
        """Raise now what a commit would meet: after the vote it must not fail."""
        target = self.locate(name)
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder")
        folder = target.parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file, so {name!r} cannot be in it")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"the folder {folder} cannot be written")
        if is_write and folder.stat().st_dev != self.staged.stat().st_dev:
            raise OSError(f"{folder} is on another file system than {self.root}, and files cannot be renamed into it")

    def _put(self, source: Path, target: Path, digest: str) -> None:
        missing = []
        folder = target.parent
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            _force(folder.parent)
        try:
            source.replace(target)
        except FileNotFoundError:
            if not target.is_file() or _force(target) != digest:  # else it was renamed before a crash
                raise RuntimeError(f"what is to become {target} is gone: somebody removed {source}") from None


class FilesWork:
    """What `tx.connect("docs")` returns. Names are relative, with `/`; contents are bytes."""

    def __init__(self, directory: FileDirectory, *, read_only: bool) -> None:
        self.directory = directory
        self.read_only = read_only
        self.changes: dict[str, str | None] = {}
        """Name to its staged content; None: it is deleted."""
        self._written = 0

    def __repr__(self) -> str:
        return f"<FilesWork {self.directory.root} {len(self.changes)} changed>"

    def read(self, name: str) -> bytes:
        """A file's content, as this transaction left it. Raises FileNotFoundError."""
        place = self.directory.locate(name)
        if name in self.changes:
            content = self.changes[name]
            if content is None:
                raise FileNotFoundError(f"{name!r} was deleted in this transaction")
            place = self.directory.staged / content
        return place.read_bytes()

    def exists(self, name: str) -> bool:
        """Whether there is such a file, as this transaction left it."""
        place = self.directory.locate(name)
        return self.changes[name] is not None if name in self.changes else place.is_file()

    def names(self) -> list[str]:
        """Every file of the directory, sorted, as this transaction left it."""
        root = self.directory.root
        found = {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}
        visible = {name for name in found if not name.startswith(f"{HIDDEN}/")}
        written = {name for name, content in self.changes.items() if content is not None}
        return sorted((visible - self.changes.keys()) | written)

    def write(self, name: str, content: bytes) -> None:
        """Make a file, or replace one as a whole."""
        self._require_writing()
        self.directory.locate(name)
        self._written += 1
        staged = f"{self._written}"
        (self.directory.staged / staged).write_bytes(content)
        self.changes[name] = staged

    def delete(self, name: str) -> None:
        """Delete a file. Raises FileNotFoundError."""
        self._require_writing()
        if not self.exists(name):
            raise FileNotFoundError(f"there is no file {name!r} in {self.directory.root}")
        self.changes[name] = None

    def _require_writing(self) -> None:
        if self.read_only:
            raise PermissionError("this work was begun as read-only")


def _path(name: str, url: str, options: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    from_url = unquote(parts.path) if parts.scheme == "files" and not (parts.netloc or parts.query) else ""
    if (url and not from_url) or bool(from_url) == bool(options.get("path")):
        raise ConfigurationError(
            f"The resource {name!r} names no folder.",
            advice='Write url = "files:///srv/docs", with the whole path of the folder.',
        )
    return from_url or options["path"]


def _force(path: Path) -> str:
    """Make a file's content, or a folder's entries, durable. Returns a file's digest."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if path.is_dir():
            return ""
        with open(descriptor, "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    finally:
        os.close(descriptor)

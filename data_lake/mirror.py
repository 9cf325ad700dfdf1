"""The lake on an object store: work happens in a local folder, this carries artifacts and memories over.

The store holds the same layout, with `current` as an object of one line. An artifact's manifest is uploaded after its
files and `current` after that, so that a reader sees a whole artifact or none. Unfinished shards stay on the machine.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_lake.errors import UserError
from data_lake.files import put_file, put_link, put_text, temporary
from data_lake.lock import holder, in_use
from data_lake.manifest import NAME, Manifest, files

CURRENT = "current"
LEASE = 600.0
"""Seconds after which the lock of a writer that no longer renews it may be taken over."""


class Mirror:
    """One dataset under an fsspec URL, and the local folder `home` that it is worked on in."""

    def __init__(self, url: str, dataset: str, home: Path) -> None:
        from fsspec.core import url_to_fs

        self._fs, root = url_to_fs(url)
        self._fs.use_listings_cache = False
        self._base, self._home = f"{root.rstrip('/')}/{dataset}", home

    def pull(self, artifact: str) -> None:
        """Make the local `current` and its manifest those of the store."""
        home, mark = self._home / artifact, self._text(f"{artifact}/{CURRENT}")
        if mark is None:
            (home / CURRENT).unlink(missing_ok=True)
            return
        text = self._text(f"{artifact}/{mark}/{NAME}") or ""
        local = home / mark / NAME
        if not local.exists() or local.read_text(encoding="utf-8").strip() != text:  # perhaps made again elsewhere
            shutil.rmtree(home / mark, ignore_errors=True)
            put_text(local, text)
        if not (home / CURRENT).is_symlink() or os.readlink(home / CURRENT) != mark:
            put_link(home / CURRENT, mark)

    def fill(self, artifact: str, made: Manifest) -> None:
        """Download the files of an artifact that are not on this machine."""
        for name, file in made.outputs[artifact].files.items():
            path = self._home / artifact / made.fingerprint / name
            if not path.exists():
                self._download(f"{artifact}/{made.fingerprint}/{name}", path)
                os.utime(path, ns=(file.mtime_ns, file.mtime_ns))

    def find_alteration(self, artifact: str, made: Manifest) -> str:
        """Return which object in the store is not as written, by size, or an empty text."""
        folder = f"{self._base}/{artifact}/{made.fingerprint}"
        sizes = {path: about["size"] for path, about in self._fs.find(folder, detail=True).items()}
        for name, file in made.outputs[artifact].files.items():
            if f"{folder}/{name}" not in sizes:
                return f"{name} is missing"
            if sizes[f"{folder}/{name}"] != file.bytes:
                return f"{name}: size differs"
        return ""

    def push(self, artifact: str, folder: Path) -> None:
        """Upload an artifact's folder, its manifest last."""
        for name, path in [*files(folder), (NAME, folder / NAME)]:
            self._upload(path, f"{artifact}/{folder.name}/{name}")

    def point(self, artifact: str, mark: str) -> None:
        """Put the artifact of this fingerprint in force."""
        self._fs.pipe_file(f"{self._base}/{artifact}/{CURRENT}", f"{mark}\n".encode())

    def remove(self, name: str) -> None:
        """Remove an object, or all objects under a name."""
        with suppress(FileNotFoundError):
            self._fs.rm(f"{self._base}/{name}", recursive=True)

    def pull_memory(self, name: str) -> None:
        """Download the parts of a memory that are not on this machine."""
        for part in self._parts(name) - self._local_parts(name):
            self._download(f"memory/{name}/{part}", self._home / "memory" / name / part)

    def push_memory(self, name: str) -> None:
        """Upload new parts of a memory, then remove those that were merged into them."""
        there, here = self._parts(name), self._local_parts(name)
        for part in sorted(here - there):
            self._upload(self._home / "memory" / name / part, f"memory/{name}/{part}")
        for part in there - here:
            self.remove(f"memory/{name}/{part}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the dataset in the store; the lock of a writer that died ends after LEASE seconds."""
        path = f"{self._base}/.lock"
        held = json.loads(self._text(".lock") or "{}")
        if held.get("until", 0) > time.time():
            raise UserError(in_use(self._base.rsplit("/", 1)[-1], json.dumps(held)))
        if held:
            self.remove(".lock")
        who = json.loads(holder())

        def text() -> bytes:
            return json.dumps({**who, "until": time.time() + LEASE}).encode()

        try:
            self._fs.pipe_file(path, text(), mode="create")
        except FileExistsError:
            raise UserError(in_use(self._base.rsplit("/", 1)[-1], self._text(".lock") or "")) from None
        done = threading.Event()

        def renew() -> None:
            while not done.wait(LEASE / 5):
                self._fs.pipe_file(path, text())

        renewer = threading.Thread(target=renew, daemon=True)
        renewer.start()
        try:
            yield
        finally:
            done.set()
            renewer.join()
            self.remove(".lock")

    def _text(self, name: str) -> str | None:
        try:
            return str(self._fs.cat_file(f"{self._base}/{name}").decode()).strip()
        except FileNotFoundError:
            return None

    def _upload(self, path: Path, name: str) -> None:
        self._fs.makedirs(f"{self._base}/{name}".rsplit("/", 1)[0], exist_ok=True)
        self._fs.put_file(str(path), f"{self._base}/{name}")

    def _download(self, name: str, path: Path) -> None:
        written = temporary(path.parent)
        self._fs.get_file(f"{self._base}/{name}", str(written))
        put_file(written, path)

    def _parts(self, name: str) -> set[str]:
        return {path.rsplit("/", 1)[-1] for path in self._fs.find(f"{self._base}/memory/{name}")}

    def _local_parts(self, name: str) -> set[str]:
        return {path.name for path in (self._home / "memory" / name).glob("[0-9]*.parquet")}

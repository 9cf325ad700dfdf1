"""A dataset on an object store: work happens in a local folder, artifacts and keyed caches are carried over.

The store holds the same layout, with `current` as an object of one line. An artifact's manifest is uploaded after its
files and `current` after that, so that a reader sees a whole artifact or none. Unfinished shards stay on the machine.

A writer's lock is the object `.lock-N` with the highest N. Who takes the dataset creates the next one, which the store
grants to one only; so of two that find a lapsed lock one fails, and whose lock is no longer the highest has lost it.
"""

import hashlib
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from data_lake.errors import UserError
from data_lake.files import put_file, put_link, put_text, remove, temporary
from data_lake.keyed_cache import KeyedCache
from data_lake.lock import holder, in_use, is_dead, locked
from data_lake.manifest import MANIFEST, File, Manifest, files, hash_file
from data_lake.stores import CACHES, CURRENT, FAILED, LocalStore, check_fingerprint, check_known

PARTS = "[0-9]*.parquet"
"""Files of a keyed cache."""

LEASE = 600.0
"""Seconds after which the lock of a writer that no longer renews it may be taken over."""

CREATES_ONCE = {"s3", "s3a", "gs", "gcs", "abfs", "az", "memory"}
"""Protocols whose stores create an object only where there is none, however many try at once."""
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Our extras that bring a protocol's package."""
LOCK = re.compile(r"\.lock(?:-(\d+))?")


class ObjectStore:
    """A dataset under an fsspec URL, and the local folder `home` in which it is worked on."""

    def __init__(self, url: str, home: Path) -> None:
        from fsspec import available_protocols
        from fsspec.core import url_to_fs

        protocol = url.partition("://")[0]
        if protocol in available_protocols() and protocol not in CREATES_ONCE:
            raise UserError(
                f"[lake] root = {url}: of {protocol} it is not known that it creates an object once only, without "
                f"which two runs may write at a time. Use one of {', '.join(sorted(CREATES_ONCE))}, or a folder."
            )
        try:
            self._fs, root = url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:  # of a protocol whose package is not installed, or that is none
            extra = f" (the extra `{EXTRAS[protocol]}` brings it)" if protocol in EXTRAS else ""
            raise UserError(f"[lake] root = {url}: {error}{extra}.") from error
        self._has_etags = protocol in ("s3", "s3a")
        self._base, self.home = f"{root.rstrip('/')}/{home.name}", home
        self._local = LocalStore(home)
        self._opened_caches: set[str] = set()
        self._owner = ""
        """Who this process is in the store's lock; empty while it holds none."""

    def manifest(self, artifact: str) -> Manifest | None:
        check_known(artifact)
        link, fingerprint = self.home / artifact / CURRENT, self._text(f"{artifact}/{CURRENT}")
        if fingerprint is None:
            link.unlink(missing_ok=True)
            return None
        check_fingerprint(fingerprint, f"{self._base}/{artifact}/{CURRENT}")
        self._download_manifest(artifact, fingerprint)
        if not link.is_symlink() or os.readlink(link) != fingerprint:
            put_link(link, fingerprint)
        return self._local.manifest(artifact)

    def failed_run(self, artifact: str) -> Manifest | None:
        check_known(artifact)
        self._download_manifest(artifact, FAILED)
        return self._local.failed_run(artifact)

    def folder(self, artifact: str, manifest: Manifest) -> Path:
        folder = FAILED if manifest.error else manifest.fingerprint
        for name, file in manifest.outputs[artifact].files.items():
            path = self.home / artifact / folder / name
            if not _looks_like(path, file):
                self._download(f"{artifact}/{folder}/{name}", path)
                os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
        return self._local.folder(artifact, manifest)

    def find_alteration(self, artifact: str, manifest: Manifest, full: bool) -> str:
        """Return which file in the store differs from what was written; `full` reads them all, here and there.

        A local copy that differs is removed, so that it is fetched again.
        """
        folder = f"{self._base}/{artifact}/{manifest.fingerprint}"
        sizes = {path: about["size"] for path, about in self._fs.find(folder, detail=True).items()}
        for name, file in manifest.outputs[artifact].files.items():
            if f"{folder}/{name}" not in sizes:
                return f"{name} is missing"
            if sizes[f"{folder}/{name}"] != file.bytes:
                return f"{name}: size differs"
            copy = self.home / artifact / manifest.fingerprint / name
            if full and self._hash(f"{folder}/{name}") != file.sha256:
                return f"{name}: content differs"
            if full and copy.exists() and hash_file(copy) != file.sha256:
                copy.unlink()
        return ""

    def publish(self, artifacts: Sequence[str], fingerprint: str) -> None:
        self._check_owner()
        for artifact in artifacts:
            self._upload_folder(artifact, fingerprint)
        for artifact in artifacts:
            self._put_current(f"{self._base}/{artifact}/{CURRENT}", f"{fingerprint}\n".encode())
        self._local.publish(artifacts, fingerprint)

    def _put_current(self, path: str, text: bytes) -> None:
        """Write the object that makes a fingerprint current; where there are ETags, if nobody did since the check."""
        condition: dict[str, str] = {}
        if self._owner and self._has_etags:
            try:
                condition = {"IfMatch": self._fs.info(path)["ETag"]}
            except FileNotFoundError:
                condition = {"mode": "create"}
        self._check_owner()
        try:
            self._fs.pipe_file(path, text, **condition)
        except OSError:
            self._check_owner()  # says why, where another one wrote
            raise

    def put_failed(self, artifact: str, written: Path) -> None:
        self._check_owner()
        self._local.put_failed(artifact, written)
        self._upload_folder(artifact, FAILED)

    def remove(self, artifact: str, name: str) -> None:
        self._check_owner()
        self._remove(f"{artifact}/{name}")
        self._local.remove(artifact, name)

    def keyed_cache(self, name: str) -> KeyedCache:
        for part in self._parts(name) - self._local_parts(name):
            self._download(f"{CACHES}/{name}/{part}", self.home / CACHES / name / part)
        self._opened_caches.add(name)
        return self._local.keyed_cache(name)

    def save_caches(self) -> None:
        """Upload the new parts of every opened cache, then remove the parts that were merged into them."""
        self._check_owner()
        for name in self._opened_caches:
            uploaded, local = self._parts(name), self._local_parts(name)
            for part in sorted(local - uploaded):
                self._upload(self.home / CACHES / name / part, f"{CACHES}/{name}/{part}")
            for part in uploaded - local:
                self._remove(f"{CACHES}/{name}/{part}")

    def lock(self) -> AbstractContextManager[None]:
        return locked(self.home / ".lock", self._lease)

    @contextmanager
    def _lease(self) -> Iterator[None]:
        """Hold the dataset in the store.

        The lock of a writer that died ends at once where it ran on this machine, elsewhere after LEASE seconds.
        """
        locks = self._locks()
        held = json.loads(self._text(locks[-1][1]) or "{}") if locks else {}
        if held.get("until", 0) > time.time() and not is_dead(held):
            raise UserError(in_use(self.home.name, json.dumps(held)))
        name = f".lock-{locks[-1][0] + 1 if locks else 1:012d}"
        path, owner = f"{self._base}/{name}", {**json.loads(holder()), "owner": uuid.uuid4().hex}

        def text(until: float) -> bytes:
            return json.dumps({**owner, "until": until}).encode()

        try:
            self._fs.pipe_file(path, text(time.time() + LEASE), mode="create")
        except FileExistsError:
            raise UserError(in_use(self.home.name, self._text(name) or "")) from None
        except OSError as error:  # no such bucket, or no permission
            raise UserError(f"[lake] root: {path} cannot be written ({error}).") from error
        for _, old in locks:
            self._remove(old)
        self._owner, done = owner["owner"], threading.Event()

        def renew() -> None:
            while not done.wait(LEASE / 5):
                with suppress(OSError, UserError):  # of a store that is away for a moment
                    if self._is_owner():
                        self._fs.pipe_file(path, text(time.time() + LEASE))

        renewer = threading.Thread(target=renew, daemon=True)
        renewer.start()
        try:
            yield
        finally:
            done.set()
            renewer.join()
            if self._is_owner():
                self._fs.pipe_file(path, text(0))  # stays: a number is given once
            self._owner = ""

    def _locks(self) -> list[tuple[int, str]]:
        """Return the number and the name of each lock, the highest last; that of an earlier version has none."""
        try:
            names = [path.rsplit("/", 1)[-1] for path in self._fs.ls(self._base, detail=False)]
        except FileNotFoundError:
            return []
        found = [(match, name) for name in names if (match := LOCK.fullmatch(name))]
        return sorted((int(match[1] or 0), name) for match, name in found)

    def _is_owner(self) -> bool:
        locks = self._locks()
        return bool(locks) and json.loads(self._text(locks[-1][1]) or "{}").get("owner") == self._owner

    def _check_owner(self) -> None:
        """Raise UserError where this process lost the lock that it took: another one writes, or has written, since."""
        if self._owner and not self._is_owner():
            raise UserError(
                f"Dataset '{self.home.name}' was taken over by another run while this one slept past its lock, which "
                f"ends after {LEASE / 60:.0f} minutes. Nothing more of this run is published. Run it again."
            )

    def _download_manifest(self, artifact: str, name: str) -> None:
        """Make the local manifest that of the store; a local folder of another manifest is removed."""
        folder, text = self.home / artifact / name, self._text(f"{artifact}/{name}/{MANIFEST}")
        local = folder / MANIFEST
        if text is None or not local.exists() or local.read_text(encoding="utf-8").strip() != text:
            remove(folder)
            if text is not None:
                put_text(local, text)

    def _upload_folder(self, artifact: str, name: str) -> None:
        """Upload an artifact's folder, its manifest last; then remove the objects of a folder that it replaces."""
        folder, base = self.home / artifact / name, f"{self._base}/{artifact}/{name}"
        written = {**dict(files(folder)), MANIFEST: folder / MANIFEST}
        for file, path in written.items():
            self._upload(path, f"{artifact}/{name}/{file}")
        for path in set(self._fs.find(base)) - {f"{base}/{file}" for file in written}:
            self._fs.rm(path)

    def _text(self, name: str) -> str | None:
        try:
            return str(self._fs.cat_file(f"{self._base}/{name}").decode()).strip()
        except FileNotFoundError:
            return None
        except Exception as error:  # of whatever client speaks to the store
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise UserError(f"[lake] root: {self._base}/{name} cannot be read ({reason}). Is the store up?") from error

    def _hash(self, path: str) -> str:
        """Return the SHA-256 of an object, read part by part."""
        with self._fs.open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _upload(self, path: Path, name: str) -> None:
        self._fs.makedirs(f"{self._base}/{name}".rsplit("/", 1)[0], exist_ok=True)
        self._fs.put_file(str(path), f"{self._base}/{name}")

    def _download(self, name: str, path: Path) -> None:
        written = temporary(path.parent)
        self._fs.get_file(f"{self._base}/{name}", str(written))
        put_file(written, path)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm(f"{self._base}/{name}", recursive=True)

    def _parts(self, name: str) -> set[str]:
        names = {path.rsplit("/", 1)[-1] for path in self._fs.find(f"{self._base}/{CACHES}/{name}")}
        return {each for each in names if fnmatch(each, PARTS)}

    def _local_parts(self, name: str) -> set[str]:
        return {path.name for path in (self.home / CACHES / name).glob(PARTS)}


def _looks_like(path: Path, file: File) -> bool:
    """Whether a local copy has the size and time of what was written."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return (status.st_size, status.st_mtime_ns) == (file.bytes, file.mtime_ns)

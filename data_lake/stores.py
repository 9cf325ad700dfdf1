"""Where the artifacts of a dataset lie: the protocol, and the store that is a local folder.

<home>/<artifact>/<fingerprint>/manifest.json, part-00000.parquet, ...
<home>/<artifact>/current -> <fingerprint>
<home>/<artifact>/failed/, like the folder of a fingerprint: what the last run left as evidence if it failed
<home>/memory/<name>/*.parquet, the keyed caches
"""

import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from data_lake.errors import UserError, nearest
from data_lake.files import put_folder, put_link, remove
from data_lake.keyed_cache import KeyedCache
from data_lake.lock import locked
from data_lake.manifest import FINGERPRINT, MANIFEST, Manifest, find_alteration, load
from data_lake.schemas import ARTIFACTS

CURRENT, FAILED = "current", "failed"
CACHES = "memory"


class Store(Protocol):
    """The published artifacts and the keyed caches of one dataset. Readers see a whole artifact or none.

    Stages write below `home`, a local folder; a finished artifact lies in `<home>/<artifact>/<fingerprint>`.
    """

    @property
    def home(self) -> Path:
        """The local folder of the dataset."""

    def manifest(self, artifact: str) -> Manifest | None:
        """Return the manifest of the current artifact, or None where there is none."""

    def failed_run(self, artifact: str) -> Manifest | None:
        """Return the manifest of the last run if it failed and left evidence as this artifact, else None."""

    def folder(self, artifact: str, manifest: Manifest) -> Path:
        """Return the local folder of the current artifact, or of a failed run's evidence, with all of its files."""

    def find_alteration(self, artifact: str, manifest: Manifest, full: bool) -> str:
        """Return which file differs from what was written, or an empty text; `full` compares hashes."""

    def publish(self, artifacts: Sequence[str], fingerprint: str) -> None:
        """Make the folders of this fingerprint the current ones of the artifacts."""

    def put_failed(self, artifact: str, written: Path) -> None:
        """Make a written folder the evidence that the last run left as this artifact."""

    def remove(self, artifact: str, name: str) -> None:
        """Remove what lies under the artifact's name `name`, everywhere."""

    def keyed_cache(self, name: str) -> KeyedCache:
        """Return the dataset's cache of this name, which every run shares."""

    def save_caches(self) -> None:
        """Make durable what the caches were given."""

    def lock(self) -> AbstractContextManager[None]:
        """Hold the dataset for writing. This process may enter again; raises UserError while another one holds it."""


class LocalStore:
    """A dataset in a local folder."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def manifest(self, artifact: str) -> Manifest | None:
        check_known(artifact)
        link = self.home / artifact / CURRENT
        if link.is_symlink():
            check_fingerprint(os.readlink(link), link)
        return load(link)

    def failed_run(self, artifact: str) -> Manifest | None:
        check_known(artifact)
        return load(self.home / artifact / FAILED)

    def folder(self, artifact: str, manifest: Manifest) -> Path:
        return (self.home / artifact / (FAILED if manifest.error else CURRENT)).resolve()

    def find_alteration(self, artifact: str, manifest: Manifest, full: bool) -> str:
        return find_alteration(self.folder(artifact, manifest), manifest.outputs[artifact], full)

    def publish(self, artifacts: Sequence[str], fingerprint: str) -> None:
        for artifact in artifacts:
            put_link(self.home / artifact / CURRENT, fingerprint)

    def put_failed(self, artifact: str, written: Path) -> None:
        put_folder(written, self.home / artifact / FAILED)

    def remove(self, artifact: str, name: str) -> None:
        remove(self.home / artifact / name)

    def keyed_cache(self, name: str) -> KeyedCache:
        return KeyedCache(self.home / CACHES / name)

    def save_caches(self) -> None:
        """Do nothing: a cache writes its rows to the disk as it gets them."""

    def lock(self) -> AbstractContextManager[None]:
        return locked(self.home / ".lock")


def check_known(artifact: str) -> None:
    """Raise UserError for a name that is no artifact's."""
    if artifact not in ARTIFACTS:
        known = f"The artifacts are {', '.join(ARTIFACTS)}."
        raise UserError(f"There is no artifact '{artifact}'.{nearest(artifact, ARTIFACTS)} {known}")


def check_fingerprint(name: str, where: Path | str) -> None:
    """Raise UserError where `current`, at `where`, names anything but a folder that a run has published."""
    if not re.match(FINGERPRINT, name):
        raise UserError(f"{where} names {name!r}, which is no fingerprint: this lake did not write it. Remove it.")


def current_path(store: Store, artifact: str) -> Path:
    """Return the local folder of the current artifact; raise UserError where there is none."""
    manifest = store.manifest(artifact)
    if manifest is None:
        raise UserError(f"'{artifact}' has not been made in dataset '{store.home.name}'. Run its stage first.")
    return store.folder(artifact, manifest)


def kept_folders(store: Store, artifact: str) -> list[Path]:
    """Return the local folders of an artifact's fingerprints."""
    folders = [path.parent for path in (store.home / artifact).glob(f"[!.]*/{MANIFEST}")]
    return [folder for folder in folders if folder.name not in (CURRENT, FAILED)]


def path_as_read(store: Store, artifact: str, by: str) -> Path | None:
    """Return the folder of an artifact as the current artifact `by` was made from it, None where it is kept no more."""
    reader, current = store.manifest(by), store.manifest(artifact)
    if reader is None or artifact not in reader.inputs:
        return None
    read = reader.inputs[artifact].content
    if current is not None and current.outputs[artifact].content == read:
        return store.folder(artifact, current)
    for folder in kept_folders(store, artifact):
        made = load(folder)
        if (
            made is not None
            and made.outputs[artifact].content == read
            and not find_alteration(folder, made.outputs[artifact])
        ):
            return folder
    return None


def verified_path(store: Store, artifact: str, full: bool) -> Path:
    """Return the local folder of the current artifact; raise UserError where a file differs from what was written.

    Compares sizes and modification times, with `full` hashes.
    """
    manifest = store.manifest(artifact)
    if manifest and (problem := store.find_alteration(artifact, manifest, full)):
        raise UserError(f"{artifact}/{problem}: it is not what was written. Rebuild it with --rerun {manifest.stage}.")
    return current_path(store, artifact)

"""What identifies a model: the content of its folder, or its name on a hub and the commit there."""

import hashlib
import importlib
import importlib.util
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from data_lake.errors import UserError
from data_lake.files import cache_folder, put_text
from data_lake.progress import progress

OWN = {"edt-tiny": "pipeline.sample_world.edt_tiny"}
"""Models of this project: their names in settings, and the packages that carry them."""


LARGE = 2**26
"""Bytes of a file from which on its hash is kept in the user's cache folder."""


class ModelIdentity(NamedTuple):
    """Where a model is loaded from, and the name that stands for it in artifacts and messages."""

    source: str
    name: str
    revision: str
    is_folder: bool


def identify(model: str, revision: str | None, section: str) -> ModelIdentity:
    """Find a model: ours, one that an installed package carries, a folder, or a name on a hub with its revision.

    `section` is the part of the settings that `model` comes from, for the error.
    """
    if not model:
        raise UserError(f"[{section}] model is empty: set it to a folder, or to a hub name together with `revision`.")
    folder = _packaged(model) or Path(model).expanduser()
    if folder.is_dir():
        name = model if _packaged(model) else folder.resolve().name
        return ModelIdentity(str(folder), name, hash_folder(folder), is_folder=True)
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        raise UserError(f"[{section}] model = {model!r}: there is no such folder; give one that holds config.json.")
    if not revision:
        raise UserError(
            f"[{section}] model = {model!r} is neither a folder nor an installed package, so it is a hub name: set "
            f"[{section}] revision to a commit of it, so that every run means the same weights."
        )
    return ModelIdentity(model, model, revision, is_folder=False)


def licence(model: str) -> str | None:
    """Return the licence that the model's own README names; None where there is none on this machine."""
    if model in OWN:
        return "apache-2.0"
    readme = (_packaged(model) or Path(model).expanduser()) / "README.md"
    if not readme.is_file():
        return None
    head = readme.read_text(encoding="utf-8", errors="replace").partition("\n---")[0]
    found = re.search(r"^license(?:_name)?:\s*(\S.*?)\s*$", head, re.MULTILINE)
    return found[1] if found and head.startswith("---") else None


def hash_folder(folder: Path) -> str:
    """Return the SHA-256 over names and contents of a folder's files; hidden ones and byte code do not count."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    )
    if not files:
        raise UserError(f"{folder}: the folder of a model is empty; give one that holds config.json and the weights.")
    total, statuses = hashlib.sha256(), [path.stat() for path in files]
    with progress("hashing the model", sum(each.st_size for each in statuses), "bytes") as work:
        for path, status in zip(files, statuses, strict=True):
            total.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            total.update(_hash_file(path, status.st_size, status.st_mtime_ns))
            work.advance(status.st_size)
    return f"sha256:{total.hexdigest()}"


@cache
def _hash_file(path: Path, size: int, changed: int) -> bytes:
    """Hash one file; the hash of a large one is kept for later processes, as long as its size and time stay."""
    note = cache_folder(f"hash of {path.resolve()}")
    about = f"{size} {changed} "
    if size >= LARGE and note.exists() and (said := note.read_text()).startswith(about):
        return bytes.fromhex(said.removeprefix(about))
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").digest()
    if size >= LARGE:
        with suppress(PermissionError):  # without a cache it is hashed again
            put_text(note, about + found.hex())
    return found


@cache
def _packaged(model: str) -> Path | None:
    """Return the folder of the model in an installed package that offers `get_model_path`, else None.

    A package that does not is not imported: its name came from a settings file.
    """
    module = OWN.get(model, model)
    if module == model and not model.isidentifier():
        return None
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    if "def get_model_path(" not in Path(spec.origin).read_text(encoding="utf-8", errors="replace"):
        return None
    return Path(importlib.import_module(module).get_model_path())

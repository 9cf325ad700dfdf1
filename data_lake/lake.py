"""The lake: artifacts that are whole, verified and made once, each in a folder named by its fingerprint.

<root>/<dataset>/<artifact>/<fingerprint>/manifest.json, part-00000.parquet, ...
<root>/<dataset>/<artifact>/current -> <fingerprint>
<root>/<dataset>/memory/<name>/*.parquet
"""

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from data_lake.errors import UserError
from data_lake.files import TEMPORARY, cache_folder, put_folder, put_link, put_text
from data_lake.keyed_cache import KeyedCache
from data_lake.lock import locked
from data_lake.manifest import (
    NAME,
    Input,
    Manifest,
    find_alteration,
    fingerprint,
    git_commit,
    hash_file,
    load,
    versions,
)
from data_lake.mirror import Mirror
from data_lake.schemas import ARTIFACTS
from data_lake.stage import Recipe, Stage, State, differences
from data_lake.stage_io import SHARDS, WORK, StageIO
from data_lake.tables import read_tables

__all__ = ["KeyedCache", "Lake", "Manifest", "Stage", "StageIO", "State"]

CURRENT = "current"
SOURCES = ".sources.json"


class Lake:
    """The artifacts of one dataset under a root: a folder, or an fsspec URL that is worked on through a local cache.

    Per artifact the newest `keep` fingerprints stay, so that going back to recent settings makes nothing anew.
    """

    def __init__(self, root: str | Path, dataset: str, keep: int = 3, cache: Path | None = None) -> None:
        remote = "://" in str(root)
        self.root = (cache or cache_folder(str(root))) if remote else Path(root).absolute()
        self.dataset, self.keep = dataset, keep
        self.home = self.root / dataset
        self._mirror = Mirror(str(root), dataset, self.home) if remote else None
        self._memories: set[str] = set()

    def run(self, stage: Stage) -> Manifest:
        """Make what the stage makes and put it in force, or skip it when that is in force already.

        A skip says so in the manifest's `skipped` and `why`. Nothing is seen of a run that fails or is killed.
        """
        with self.lock():
            state = self.state(stage)
            if state.blocked:
                names = ", ".join(state.blocked)
                raise UserError(f"Stage '{stage.name}' needs {names}, which is not there. Make or provide it first.")
            if state.manifest is not None and state.kind == "fresh":
                return state.manifest.model_copy(update={"skipped": True, "why": state.why})
            recipe = self._recipe(stage)
            made = self._made(stage, recipe.fingerprint)
            if made is not None:
                self._put_in_force(stage, recipe.fingerprint)
                return made.model_copy(update={"skipped": True, "why": "made before with these settings and inputs"})
            return self._make(stage, recipe)

    def state(self, stage: Stage) -> State:
        """Tell how a stage stands without reading any data."""
        made = {artifact: self.manifest(artifact) for artifact in stage.makes}
        last = next((manifest for manifest in made.values() if manifest), None)
        absent = [artifact for artifact, manifest in made.items() if manifest is None]
        blocked = [artifact for artifact in stage.reads if self.manifest(artifact) is None]
        blocked += [str(path) for path in stage.sources if not path.is_file()]
        if absent:
            why = "never made" if last is None else f"{', '.join(absent)} is not there"
            return State("missing", why, tuple(blocked), last)
        assert last is not None
        if blocked:
            return State("stale", f"input {', '.join(blocked)} is missing", tuple(blocked), last)
        recipe = self._recipe(stage)
        reasons = []
        if any(manifest != last for manifest in made.values()):
            reasons.append(f"{', '.join(stage.makes)} are not from one run")
        if recipe.fingerprint != last.fingerprint:
            reasons += differences(stage, recipe, last) or ["its fingerprint differs"]
        for artifact in stage.makes:
            problem = "" if reasons else self.find_alteration(artifact, full=False)
            if problem:
                reasons.append(f"{artifact}/{problem}")
        return State("stale" if reasons else "fresh", "; ".join(reasons) or "nothing has changed", (), last)

    def forget(self, stage: Stage) -> None:
        """Take what the stage made out of force and remove it with what is unfinished; the memories stay."""
        with self.lock():
            doomed = set() if self.state(stage).blocked else {self._recipe(stage).fingerprint}
            for artifact in stage.makes:
                made = self.manifest(artifact)
                for name in [CURRENT, *doomed, *([made.fingerprint] if made else [])]:
                    if self._mirror:
                        self._mirror.remove(f"{artifact}/{name}")
                    _remove(self.home / artifact / name)
                for path in self._unfinished(artifact):
                    _remove(path)

    def read(self, artifact: str, table: str = "", columns: Sequence[str] | None = None) -> pa.Table:
        """Return a table of the artifact in force, its schema checked."""
        return read_tables(self.path(artifact), ARTIFACTS[artifact], table, columns)

    def path(self, artifact: str) -> Path:
        """Return the folder of the artifact in force."""
        if artifact not in ARTIFACTS:
            raise UserError(f"There is no artifact '{artifact}'. The artifacts are {', '.join(ARTIFACTS)}.")
        made = self.manifest(artifact)
        if made is None:
            raise UserError(f"'{artifact}' has not been made in dataset '{self.dataset}'. Run its stage first.")
        if self._mirror:
            self._mirror.fill(artifact, made)
        return (self.home / artifact / CURRENT).resolve()

    def verified_path(self, artifact: str, full: bool) -> Path:
        """Return the folder of the current artifact; raise UserError where a file is not as it was written."""
        made = self.manifest(artifact)
        if made and (problem := self.find_alteration(artifact, full)):
            raise UserError(f"{artifact}/{problem}: it is not what was made. Make it again with --rerun {made.stage}.")
        return self.path(artifact)

    def manifest(self, artifact: str) -> Manifest | None:
        """Return the record of the artifact in force, or None if none is."""
        if self._mirror:
            self._mirror.pull(artifact)
        return load(self.home / artifact / CURRENT)

    def verify(self, artifact: str) -> str:
        """Hash every file of the artifact in force; return what is not as written, or an empty text."""
        return self.find_alteration(artifact, full=True)

    def find_alteration(self, artifact: str, full: bool) -> str:
        """Return what is not as written, by size and time, or by hash if `full`."""
        made = self.manifest(artifact)
        if made is None:
            return "it is not there"
        if self._mirror and not full:
            return self._mirror.find_alteration(artifact, made)
        return find_alteration(self.path(artifact), made.outputs[artifact], full)

    def lock(self) -> AbstractContextManager[None]:
        """Hold the dataset for writing. This process may enter again; another one gets a UserError."""
        return locked(self.home / ".lock", self._mirror.lock if self._mirror else nullcontext)

    def keyed_cache(self, name: str) -> KeyedCache:
        """Return what the dataset remembers under `name` over all runs."""
        if self._mirror:
            self._mirror.pull_memory(name)
            self._memories.add(name)
        return KeyedCache(self.home / "memory" / name)

    def clean(self, stages: Sequence[Stage] | None = None) -> None:
        """Remove half-written files; and with `stages`, in their order, unfinished work that none of them can resume.

        The work of a stage whose inputs are still to be made stays, since its fingerprint is not known yet.
        """
        with self.lock():
            for path in list(self.home.rglob(f"{TEMPORARY}*")):
                _remove(path)
            if stages is None:
                return
            wanted: set[str] = set()
            unsettled: set[str] = set()  # artifacts that are to be made first
            keep: set[str] = set()
            for stage in stages:
                state = self.state(stage)
                if state.blocked or unsettled & set(stage.reads):
                    keep |= set(stage.makes)
                    unsettled |= set(stage.makes)
                    continue
                wanted.add(self._recipe(stage).fingerprint)
                if state.kind != "fresh":
                    unsettled |= set(stage.makes)
            for artifact in ARTIFACTS.keys() - keep:
                for path in self._unfinished(artifact):
                    if path.name.removeprefix(WORK).removeprefix(SHARDS) not in wanted:
                        _remove(path)

    def _recipe(self, stage: Stage) -> Recipe:
        inputs = {}
        for artifact in stage.reads:
            made = self.manifest(artifact)
            if made is None:
                raise UserError(f"Stage '{stage.name}' needs {artifact}, which is not there. Make it first.")
            inputs[artifact] = Input(content=made.outputs[artifact].content, rows=made.outputs[artifact].rows)
        settings = json.loads(json.dumps(dict(stage.settings)))
        sources = self._source_hashes(stage.sources)
        contents = {artifact: given.content for artifact, given in inputs.items()}
        mark = fingerprint(stage.name, stage.version, settings, contents, list(sources.values()))
        return Recipe(mark, settings, inputs, sources)

    def _source_hashes(self, paths: Sequence[Path]) -> dict[str, str]:
        """Return the hash of each file, hashing again only those whose size or time has changed."""
        store = self.home / SOURCES
        known = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
        before = dict(known)
        hashes = {}
        for path in map(Path.absolute, paths):
            stat = path.stat()
            seen = known.get(str(path))
            if seen is None or seen[:2] != [stat.st_size, stat.st_mtime_ns]:
                seen = known[str(path)] = [stat.st_size, stat.st_mtime_ns, hash_file(path)]
            hashes[str(path)] = seen[2]
        if known != before and self.home.exists():
            put_text(store, json.dumps(known, indent=1))
        return hashes

    def _made(self, stage: Stage, mark: str) -> Manifest | None:
        """Return the record of a whole earlier run with this fingerprint whose files are as written."""
        folders = {artifact: self.home / artifact / mark for artifact in stage.makes}
        made = [load(folder) for folder in folders.values()]
        first = made[0]
        if first is None or any(manifest != first for manifest in made):
            return None
        if any(find_alteration(folder, first.outputs[artifact]) for artifact, folder in folders.items()):
            return None
        return first

    def _make(self, stage: Stage, recipe: Recipe) -> Manifest:
        started, clock = datetime.now(UTC), time.monotonic()
        work = StageIO(self, stage, recipe.fingerprint)
        try:
            stage.work(work)
            finished = work.finish()
            manifest = Manifest(
                stage=stage.name,
                version=stage.version,
                fingerprint=recipe.fingerprint,
                settings=recipe.settings,
                inputs=recipe.inputs,
                sources=recipe.sources,
                outputs={artifact: output for artifact, (_, output) in finished.items()},
                figures=work.figures,
                git=git_commit(),
                versions=versions(),
                started=started.isoformat(timespec="seconds"),
                seconds=round(time.monotonic() - clock, 3),
            )
            for folder, _ in finished.values():
                manifest.save(folder)
            for artifact, (folder, _) in finished.items():
                put_folder(folder, self.home / artifact / recipe.fingerprint)
        finally:
            work.close()
            if self._mirror:
                for name in self._memories:
                    self._mirror.push_memory(name)
        self._put_in_force(stage, recipe.fingerprint)
        return manifest

    def _put_in_force(self, stage: Stage, mark: str) -> None:
        """Let `current` of all outputs name their folder `mark`, then remove what is no longer needed."""
        if self._mirror:
            for artifact in stage.makes:
                self._mirror.push(artifact, self.home / artifact / mark)
            for artifact in stage.makes:
                self._mirror.point(artifact, mark)
        for artifact in stage.makes:
            put_link(self.home / artifact / CURRENT, mark)
        for artifact in stage.makes:
            for path in self._unfinished(artifact):
                if path.name.endswith(mark):
                    _remove(path)
            others = [path.parent for path in (self.home / artifact).glob(f"[0-9a-f]*/{NAME}")]
            others = [path for path in others if path.name not in (mark, CURRENT)]
            others.sort(key=lambda path: (path / NAME).stat().st_mtime_ns, reverse=True)
            for path in others[max(self.keep - 1, 0) :]:
                if self._mirror:
                    self._mirror.remove(f"{artifact}/{path.name}")
                _remove(path)

    def _unfinished(self, artifact: str) -> list[Path]:
        home = self.home / artifact
        return [*home.glob(f"{WORK}*"), *home.glob(f"{SHARDS}*")]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""The lake: complete, verified artifacts, each in a folder named by its fingerprint (layout: see `stores.py`)."""

import json
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_lake.errors import DataRefused, HeldBack, UserError
from data_lake.files import TEMPORARY, cache_folder, put_folder, put_text, remove, temporary
from data_lake.keyed_cache import KeyedCache
from data_lake.manifest import (
    MANIFEST,
    Input,
    Manifest,
    files,
    find_alteration,
    fingerprint,
    git_commit,
    load,
    measure,
    versions,
)
from data_lake.object_store import ObjectStore
from data_lake.peak_memory import PeakMemory
from data_lake.progress import progress
from data_lake.schemas import ARTIFACTS
from data_lake.sources import check_unchanged, source_hashes
from data_lake.stage import Recipe, Stage, State, differences
from data_lake.stage_io import SHARDS, WORK, OnMade, ShardsMade, StageIO
from data_lake.stores import (
    FAILED,
    LocalStore,
    Store,
    current_path,
    kept_folders,
    path_as_read,
    verified_path,
)
from data_lake.tables import ROWS_PER_GROUP, read_tables

__all__ = ["KeyedCache", "Lake", "Manifest", "Stage", "StageIO", "State"]

Engine = Callable[[str, str, Sequence[int], OnMade], None]
"""Makes shards of a stage, by its name, its fingerprint and their numbers, in the stage's folder of finished ones."""

ChangeRows = Callable[[str, str, pa.Table], pa.Table]
"""Gets an artifact's name, a table's name and rows of it, and returns the rows that stay."""

SOURCES = ".sources.json"
REBUILD = ".rebuild"
"""The file in the folder of a stage's first artifact that asks for a rebuild, until that is published."""
HELD_BACK = ".held-back.json"
"""The file beside it that says which finished work was held back last, and why, until the stage publishes."""


def open_store(root: str | Path, dataset: str, cache: Path | None = None) -> Store:
    """Return the store of a dataset under a local folder or an fsspec URL; a URL is worked on in the folder `cache`."""
    if "://" in str(root):
        return ObjectStore(str(root), (cache or cache_folder(str(root))) / dataset)
    return LocalStore(Path(root).absolute() / dataset)


class Lake:
    """The artifacts of one dataset under a root: a folder, or an fsspec URL with a local folder `cache`.

    Per artifact the newest `keep` fingerprints stay, so that going back to recent settings rebuilds nothing; and those
    from which something current was made.
    """

    def __init__(
        self, root: str | Path, dataset: str, keep: int = 3, cache: Path | None = None, engine: Engine | None = None
    ) -> None:
        """`engine` makes shards elsewhere; by default this process makes all of them."""
        self.store = open_store(root, dataset, cache)
        self.home, self.keep = self.store.home, keep
        self._engine = engine

    def run(self, stage: Stage, rebuild: bool = False) -> Manifest:
        """Make the stage's artifacts and publish them, or skip the stage where they are fresh.

        A skip says so in the manifest's `skipped` and `why`. `rebuild` makes them in any case (see `request_rebuild`).
        A run that fails or is killed publishes nothing. Raises UserError for a missing input.
        """
        with self.lock():
            if rebuild:
                self.request_rebuild(stage)
            state = self.state(stage)
            if state.blocked:
                names = ", ".join(state.blocked)
                raise UserError(f"Stage '{stage.name}' needs {names}, which is not there. Make or provide it first.")
            self._remove_evidence(stage)
            if state.manifest is not None and state.kind == "fresh":
                return _skipped(state.manifest, state.why)
            recipe = self._recipe(stage)
            earlier = None if self._rebuild_requested(stage) else self._earlier_run(stage, recipe.fingerprint)
            if earlier is None:
                return self._make(stage, recipe)
            self._check_earlier(stage, recipe)
            self._publish(stage, recipe.fingerprint)
            return _skipped(earlier, "made before with these settings and inputs")

    def make_shards(self, stage: Stage, fingerprint: str, shards: Collection[int]) -> None:
        """Make shards of a stage for a run of it elsewhere, which holds the lake.

        Raises UserError where the stage would not be the same here, by its fingerprint.
        """
        if self._recipe(stage).fingerprint != fingerprint:
            raise UserError(
                f"Stage '{stage.name}' would make something else here than on the machine that asks: its inputs, "
                "settings or versions differ. Give both the same lake, settings and packages."
            )
        io = StageIO(self.store, stage.name, stage.reads, stage.makes, fingerprint, only=shards)
        try:
            stage.work(io)
        except ShardsMade:
            return
        finally:
            io.close()
        raise ValueError(f"stage {stage.name} makes no shards")

    def state(self, stage: Stage) -> State:
        """Return whether the stage's artifacts are fresh, from manifests, file sizes and times alone."""
        manifests = {artifact: self.manifest(artifact) for artifact in stage.makes}
        last = next((manifest for manifest in manifests.values() if manifest), None)
        absent = [artifact for artifact, manifest in manifests.items() if manifest is None]
        blocked = [artifact for artifact in stage.reads if self.manifest(artifact) is None]
        blocked += [str(path) for path in stage.sources if not path.is_file()]
        if last is None:
            return State("missing", "never made", tuple(blocked))
        if absent:
            return State("missing", f"{', '.join(absent)} is not there", tuple(blocked), last)
        if blocked:
            return State("stale", f"input {', '.join(blocked)} is missing", tuple(blocked), last)
        one_run = all(manifest == last for manifest in manifests.values())
        reasons = [] if one_run else [f"{', '.join(stage.makes)} are not from one run"]
        reasons += self._reasons_to_run(stage, last)
        return State("stale" if reasons else "fresh", "; ".join(reasons) or "nothing has changed", (), last)

    def held_back(self, stage: Stage) -> str:
        """Return why what the stage would make now was held back; an empty text where it was not."""
        if not self._held_back_marker(stage).exists() or self.state(stage).blocked:
            return ""
        return self._held_back(stage, self._recipe(stage).fingerprint)

    def request_rebuild(self, stage: Stage) -> None:
        """Let the next run make the stage's artifacts although they are fresh; until then they stay current.

        Removes the unfinished work of earlier runs. A second request before the rebuild is published changes nothing,
        so that a rebuild that was killed goes on from its finished shards.
        """
        with self.lock():
            if self._rebuild_requested(stage):
                return
            for artifact in stage.makes:
                for path in self._unfinished(artifact):
                    remove(path)
            remove(self._held_back_marker(stage))
            put_text(self._rebuild_marker(stage), "")

    def read(self, artifact: str, table: str = "", columns: Sequence[str] | None = None) -> pa.Table:
        """Return a table of the current artifact; raise SchemaError where it breaks its schema."""
        return read_tables(self.path(artifact), ARTIFACTS[artifact], table, columns)

    def path(self, artifact: str) -> Path:
        """Return the local folder of the current artifact; raise UserError where there is none."""
        return current_path(self.store, artifact)

    def verified_path(self, artifact: str, full: bool) -> Path:
        """Return the folder of the current artifact; raise UserError where a file differs from what was written."""
        return verified_path(self.store, artifact, full)

    def path_as_read(self, artifact: str, by: str) -> Path | None:
        """Return the folder of an artifact as the current `by` was made from it; None where it is kept no more."""
        return path_as_read(self.store, artifact, by)

    def manifest(self, artifact: str) -> Manifest | None:
        """Return the manifest of the current artifact, or None where there is none."""
        return self.store.manifest(artifact)

    def kept_runs(self, artifact: str) -> list[Manifest]:
        """Return the manifest of each fingerprint that is kept of an artifact, the one that began last first."""
        found = [load(folder) for folder in kept_folders(self.store, artifact)]
        return sorted((run for run in found if run is not None), key=lambda run: run.started, reverse=True)

    def kept_path(self, artifact: str, run: Manifest) -> Path:
        """Return the local folder of an artifact that one of its `kept_runs` made."""
        return self.home / artifact / run.fingerprint

    def failed_run(self, artifact: str) -> tuple[Path, Manifest] | None:
        """Return the folder and manifest of the evidence that the last run left if it failed (see `DataRefused`)."""
        manifest = self.store.failed_run(artifact)
        return (self.store.folder(artifact, manifest), manifest) if manifest else None

    def find_alteration(self, artifact: str, full: bool) -> str:
        """Return which file differs from what was written, by size and time, or by hash if `full`; else an empty text.

        An artifact that has not been made "is not there".
        """
        manifest = self.manifest(artifact)
        return self.store.find_alteration(artifact, manifest, full) if manifest else "it is not there"

    def lock(self) -> AbstractContextManager[None]:
        """Hold the dataset for writing. This process may enter again; raises UserError while another one holds it."""
        return self.store.lock()

    def keyed_cache(self, name: str) -> KeyedCache:
        """Return the dataset's cache of this name, which every run shares."""
        return self.store.keyed_cache(name)

    def clean(self, stages: Sequence[Stage] | None = None) -> None:
        """Remove `leftovers`."""
        with self.lock():
            for path in self.leftovers(stages):
                remove(path)

    def leftovers(self, stages: Sequence[Stage] | None = None) -> list[Path]:
        """Return half-written files; and with `stages`, in their order, unfinished work that none of them can resume.

        Unfinished work of a stage whose inputs are still to be made is none: its fingerprint is not known yet.
        """
        half_written = list(self.home.rglob(f"{TEMPORARY}*"))
        return half_written + ([] if stages is None else self._unresumable(stages))

    def old_versions(self) -> list[Path]:
        """Return the folders of artifacts that are not current, and that nothing current was made from."""
        current = self._current()
        return [
            folder
            for artifact in ARTIFACTS
            for folder in kept_folders(self.store, artifact)
            if not (artifact in current and folder.name == current[artifact].fingerprint)
            and not _was_read(artifact, folder, current)
        ]

    def remove_version(self, folder: Path) -> None:
        """Remove one of `old_versions`, or what a failed run left, everywhere."""
        with self.lock():
            self.store.remove(folder.parent.name, folder.name)

    def forget(self, change: ChangeRows) -> None:
        """Change rows of all that is current, and remove all other versions, unfinished work and evidence of failures.

        `change` gets the name of an artifact, of its table, and the rows of one file; it returns those that stay. What
        was made from a changed artifact is stale afterwards. One that is not what was written raises UserError before
        anything is changed.
        """
        with self.lock():
            current = self._current()
            for artifact in current:
                self.verified_path(artifact, full=False)
            runs = {found.fingerprint: found for found in current.values()}
            for run in reversed(runs.values()):  # what tells which rows are meant is read by a second call after a kill
                of_run = [artifact for artifact, found in current.items() if found == run]
                self._change_run(run, of_run, change)
            for artifact in ARTIFACTS:
                for folder in kept_folders(self.store, artifact):
                    if artifact not in current or folder.name != current[artifact].fingerprint:
                        self.remove_version(folder)
                if self.store.failed_run(artifact):
                    self.remove_version(self.home / artifact / FAILED)
                for path in self._unfinished(artifact):
                    remove(path)

    def _change_run(self, run: Manifest, artifacts: Sequence[str], change: ChangeRows) -> None:
        """Change rows of the current artifacts of one run, and write down what they hold now."""
        written = {artifact: temporary(self.home / artifact) for artifact in artifacts}
        changed = False
        for artifact, folder in written.items():
            changed |= _change_files(self.path(artifact), folder, partial(change, artifact))
        if changed:
            outputs = {artifact: measure(folder) for artifact, folder in written.items()}
            manifest = run.model_copy(update={"outputs": run.outputs | outputs})
            for artifact, folder in written.items():
                manifest.save(folder)
                put_folder(folder, self.home / artifact / run.fingerprint)
            self.store.publish(artifacts, run.fingerprint)
        for folder in written.values():
            remove(folder)

    def _unresumable(self, stages: Sequence[Stage]) -> list[Path]:
        resumable: set[str] = set()  # fingerprints
        unsettled: set[str] = set()  # artifacts that are to be made first
        keep: set[str] = set()
        for stage in stages:
            state = self.state(stage)
            if state.blocked or unsettled & set(stage.reads):
                keep |= set(stage.makes)
                unsettled |= set(stage.makes)
            elif state.kind != "fresh":  # a fresh one may have been killed after it had published, before it cleaned up
                resumable.add(self._recipe(stage).fingerprint)
                unsettled |= set(stage.makes)
        unfinished = [path for artifact in ARTIFACTS.keys() - keep for path in self._unfinished(artifact)]
        return [path for path in unfinished if path.name.removeprefix(WORK).removeprefix(SHARDS) not in resumable]

    def _reasons_to_run(self, stage: Stage, last: Manifest) -> list[str]:
        """Return why the current artifacts, made by the run `last`, are not what the stage would make now."""
        recipe = self._recipe(stage)
        if recipe.fingerprint != last.fingerprint:
            reasons = differences(stage, recipe, last) or ["its fingerprint differs"]
        else:
            found = {artifact: self.find_alteration(artifact, full=False) for artifact in stage.makes}
            reasons = [f"{artifact}/{problem}" for artifact, problem in found.items() if problem]
        reasons = [*filter(None, [self._held_back(stage, recipe.fingerprint)]), *reasons]
        return [*reasons, *(["a rebuild was requested"] if self._rebuild_requested(stage) else [])]

    def _recipe(self, stage: Stage) -> Recipe:
        inputs = {}
        for artifact in stage.reads:
            manifest = self.manifest(artifact)
            if manifest is None:
                raise UserError(f"Stage '{stage.name}' needs {artifact}, which is not there. Make it first.")
            output = manifest.outputs[artifact]
            inputs[artifact] = Input(content=output.content, rows=output.rows)
        settings = json.loads(json.dumps(dict(stage.settings)))
        sources = source_hashes(stage.sources, self.home / SOURCES)
        contents = {artifact: given.content for artifact, given in inputs.items()}
        hashed = fingerprint(stage.name, stage.version, settings, contents, list(sources.values()))
        return Recipe(hashed, settings, inputs, sources)

    def _earlier_run(self, stage: Stage, fingerprint: str) -> Manifest | None:
        """Return the manifest of an earlier run with this fingerprint whose files are all unaltered."""
        folders = {artifact: self.home / artifact / fingerprint for artifact in stage.makes}
        manifests = [load(folder) for folder in folders.values()]
        first = manifests[0]
        if first is None or any(manifest != first for manifest in manifests):
            return None
        if any(find_alteration(folder, first.outputs[artifact]) for artifact, folder in folders.items()):
            return None
        return first

    def _make(self, stage: Stage, recipe: Recipe) -> Manifest:
        io = self._io(stage, recipe)
        memory = PeakMemory()
        try:
            with memory, progress(stage.name) as io.work:
                stage.work(io)
                self._check(stage, io, io.folders)
            check_unchanged(recipe.sources, self.home / SOURCES)
            manifest, folders = _finish(stage, recipe, io, memory, stage.makes)
            for artifact, folder in folders.items():
                put_folder(folder, self.home / artifact / recipe.fingerprint)
        except DataRefused as failure:
            for artifact, tables in failure.evidence.items():
                io.write_stream(artifact, tables)
            _, folders = _finish(stage, recipe, io, memory, failure.evidence, str(failure))
            for artifact, folder in folders.items():
                self.store.put_failed(artifact, folder)
            raise
        finally:
            io.close()
            self.store.save_caches()
        self._publish(stage, recipe.fingerprint)
        return manifest

    def _check_earlier(self, stage: Stage, recipe: Recipe) -> None:
        """Check artifacts of an earlier run before they become current again."""
        io = self._io(stage, recipe)
        with progress(stage.name) as io.work:
            self._check(stage, io, {artifact: self.home / artifact / recipe.fingerprint for artifact in stage.makes})

    def _check(self, stage: Stage, io: StageIO, folders: Mapping[str, Path]) -> None:
        """Let the stage look at what is to become current; write down why it is held back where it is."""
        try:
            stage.check(io, folders)
        except HeldBack as held:
            put_text(self._held_back_marker(stage), json.dumps({"fingerprint": io.fingerprint, "why": held.why}))
            raise

    def _io(self, stage: Stage, recipe: Recipe) -> StageIO:
        helpers = self._engine and partial(self._engine, stage.name, recipe.fingerprint)
        return StageIO(
            self.store, stage.name, stage.reads, stage.makes, recipe.fingerprint, helpers,
            is_rebuild=self._rebuild_requested(stage),
        )  # fmt: skip

    def _publish(self, stage: Stage, fingerprint: str) -> None:
        """Make the folders of this fingerprint current, then remove what is no longer needed."""
        self.store.publish(stage.makes, fingerprint)
        remove(self._rebuild_marker(stage))
        remove(self._held_back_marker(stage))
        for artifact in stage.makes:
            for path in self._unfinished(artifact):
                if path.name.endswith(fingerprint):
                    remove(path)
        touched = (*stage.makes, *stage.reads)  # the latter may have waited for this stage to read the new ones
        full = [artifact for artifact in touched if len(kept_folders(self.store, artifact)) > self.keep]
        current = self._current() if full else {}
        for artifact in full:
            self._remove_old(artifact, current)

    def _remove_old(self, artifact: str, current: Mapping[str, Manifest]) -> None:
        """Remove all but the newest `keep` fingerprints, the current one, and what something current was made from."""
        others = [path for path in kept_folders(self.store, artifact) if path.name != current[artifact].fingerprint]
        others.sort(key=lambda path: (path / MANIFEST).stat().st_mtime_ns, reverse=True)
        for path in others[max(self.keep - 1, 0) :]:
            if not _was_read(artifact, path, current):
                self.store.remove(artifact, path.name)

    def _current(self) -> dict[str, Manifest]:
        """Return the manifest of each artifact that is there, in the order of the stages."""
        return {artifact: found for artifact in ARTIFACTS if (found := self.manifest(artifact))}

    def _remove_evidence(self, stage: Stage) -> None:
        for artifact in stage.makes:
            if self.store.failed_run(artifact):
                self.store.remove(artifact, FAILED)

    def _rebuild_marker(self, stage: Stage) -> Path:
        return self.home / stage.makes[0] / REBUILD

    def _held_back_marker(self, stage: Stage) -> Path:
        return self.home / stage.makes[0] / HELD_BACK

    def _held_back(self, stage: Stage, fingerprint: str) -> str:
        """Return why the work of this fingerprint was held back; an empty text where it was not."""
        try:
            held = json.loads(self._held_back_marker(stage).read_bytes())
            return str(held["why"]) if held["fingerprint"] == fingerprint else ""
        except (OSError, ValueError, LookupError, TypeError):
            return ""

    def _rebuild_requested(self, stage: Stage) -> bool:
        return self._rebuild_marker(stage).exists()

    def _unfinished(self, artifact: str) -> list[Path]:
        home = self.home / artifact
        return [*home.glob(f"{WORK}*"), *home.glob(f"{SHARDS}*")]


def _change_files(folder: Path, written: Path, change: Callable[[str, pa.Table], pa.Table]) -> bool:
    """Write an artifact's folder anew with the rows that `change` leaves of each file; return whether any differs."""
    found = False
    for name, path in files(folder):
        (written / name).parent.mkdir(parents=True, exist_ok=True)
        before = pq.ParquetFile(path).read() if path.suffix == ".parquet" else None
        rows = None if before is None else change(Path(name).parent.name, before)
        if rows is None or rows.equals(before):
            shutil.copy2(path, written / name)
        else:
            pq.write_table(rows, written / name, compression="zstd", row_group_size=ROWS_PER_GROUP)
            found = True
    return found


def _was_read(artifact: str, folder: Path, current: Mapping[str, Manifest]) -> bool:
    """Say whether one of the current artifacts was made from what lies in a folder of an artifact."""
    made = load(folder)
    read = [found.inputs[artifact].content for found in current.values() if artifact in found.inputs]
    return made is not None and made.outputs[artifact].content in read


def _skipped(manifest: Manifest, why: str) -> Manifest:
    return manifest.model_copy(update={"skipped": True, "why": why})


def _finish(
    stage: Stage, recipe: Recipe, io: StageIO, memory: PeakMemory, artifacts: Iterable[str], error: str = ""
) -> tuple[Manifest, dict[str, Path]]:
    """Write the manifest of a run beside its outputs `artifacts`; return it and the folder of each."""
    finished = io.finish(artifacts)
    manifest = Manifest(
        stage=stage.name,
        version=stage.version,
        fingerprint=recipe.fingerprint,
        settings=recipe.settings,
        inputs=recipe.inputs,
        sources=recipe.sources,
        outputs={artifact: output for artifact, (_, output) in finished.items()},
        figures=io.figures,
        git=git_commit(),
        versions=versions(),
        started=io.started.isoformat(timespec="seconds"),
        seconds=round(io.seconds, 3),
        peak_bytes=memory.bytes,
        error=error,
    )
    folders = {artifact: folder for artifact, (folder, _) in finished.items()}
    for folder in folders.values():
        manifest.save(folder)
    return manifest, folders

"""Which runs a result rests on, down to the input files, and what each of them took."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_lake.lake import Lake, Manifest
from data_lake.manifest import changes
from flows.stages import STAGES
from pipeline.llm.backends import NONE


@dataclass(frozen=True)
class Lineage:
    """The runs that a result rests on, in the order of the stages; `lost` are inputs whose run is no longer kept."""

    runs: list[Manifest]
    lost: list[str]

    def stage(self, name: str) -> Manifest | None:
        """Return the run of a stage, or None where the result does not rest on it."""
        return next((run for run in self.runs if run.stage == name), None)

    @property
    def generator(self) -> str | None:
        """The generator whose replies the result rests on, "none" where there is none; None where that is lost."""
        assembled, asked = self.stage("assemble"), self.stage("generate_items")
        if assembled is None:
            return None
        if "augmented_sequences" not in assembled.inputs:
            return NONE
        return str(asked.settings["generator"]) if asked else None


def lineage(lake: Lake, results: Sequence[Manifest]) -> Lineage:
    """Follow the inputs of these runs to the runs that made them, by the hash of their content."""
    found: dict[str, Manifest] = {}
    lost: list[str] = []
    waiting = list(results)
    while waiting:
        run = waiting.pop()
        if run.fingerprint in found:
            continue
        found[run.fingerprint] = run
        for artifact, read in run.inputs.items():
            if maker := _maker(lake, artifact, read.content):
                waiting.append(maker)
            elif artifact not in lost:
                lost.append(artifact)
    return Lineage(sorted(found.values(), key=lambda run: (STAGES.index(run.stage), run.started)), lost)


def changes_between(before: Lineage, now: Lineage) -> list[str]:
    """Return what differs between the runs that two results rest on: settings, input files, versions of stages."""
    found = []
    if before.generator != now.generator and NONE in (before.generator, now.generator):
        found.append(f"generator {before.generator} -> {now.generator}")
    for run in now.runs:
        if there := before.stage(run.stage):
            found += changes(there.settings, run.settings)
            if there.sources != run.sources:
                found.append("other input files")
            if there.version != run.version:
                found.append(f"version of {run.stage} {there.version} -> {run.version}")
    return list(dict.fromkeys(found))


def _maker(lake: Lake, artifact: str, content: str) -> Manifest | None:
    current = lake.manifest(artifact)
    runs = [*([current] if current else []), *lake.kept_runs(artifact)]
    return next((run for run in runs if run.outputs[artifact].content == content), None)

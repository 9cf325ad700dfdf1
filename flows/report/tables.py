"""The current artifacts that a run's stages make, read lazily."""

import polars as pl

from data_lake.lake import Manifest
from data_lake.schemas import ARTIFACTS
from data_lake.tables import open_parts
from flows.run import Run


class Tables:
    """What the lake holds of the artifacts that a run's stages make; what the settings turn off is not there."""

    def __init__(self, run: Run) -> None:
        self.lake = run.lake
        self._made = {artifact for stage in run.stages for artifact in stage.makes}

    def manifest(self, artifact: str) -> Manifest | None:
        """Return the manifest of an artifact, or None where it is not there."""
        return self.lake.manifest(artifact) if artifact in self._made else None

    def scan(self, artifact: str) -> pl.LazyFrame | None:
        """Return the table of an artifact that has one; None where it is not there, or lacks a column for its age.

        Raises UserError where a file is not as it was written.
        """
        if self.manifest(artifact) is None:
            return None
        parts = open_parts(self.lake.verified_path(artifact, full=False))
        if set(ARTIFACTS[artifact].tables[""].names) - set(parts.schema.names):
            return None
        return pl.scan_parquet(parts.files)

"""What a person reads at the end of a run, and the line per stage before it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from data_lake.lake import Lake, Manifest
from flows import text
from flows.plan import stale_artifacts
from flows.run import Run
from flows.settings import DEFAULT_FILE

REPORT = "report.html"
SHOWN = ("HR@10", "NDCG@10")
TRY = ("show recommendations", "show metrics", "show rejects", "status", "plan --set enrich.generator=none")


def report_path(lake: Lake) -> Path:
    """Return the file in which the report of a dataset lies: on this machine, also where its artifacts do not."""
    return lake.home / REPORT


def stage_line(manifest: Manifest) -> str:
    """Return one line about a stage that ran or was skipped."""
    if manifest.skipped:
        return f"{manifest.stage:<16} skipped: {manifest.why}"
    made = ", ".join(f"{name} {output.rows:,}" for name, output in manifest.outputs.items())
    failed = ", ".join(f"{reason} {count:,}" for reason, count in manifest.figures.get("failed", {}).items())
    return f"{manifest.stage:<16} {manifest.seconds:6.1f} s  {made}" + (f"  (failed: {failed})" if failed else "")


def summary(run: Run, ran: Sequence[Manifest], skipped: int, seconds: float) -> str:
    """Return what ran, where the artifacts lie, the main figures, and what to try next."""
    lake = run.lake
    names = ", ".join(manifest.stage for manifest in ran) or "nothing"
    parts = [f"Done in {seconds:.0f} s. Made: {names}; skipped: {skipped}.\nArtifacts: {lake.home}"]
    if run.settings.report.after_run:
        parts[0] += f"\nReport: {report_path(lake)}"
    stale = stale_artifacts(run)
    if lake.manifest("metrics") and "metrics" in stale:
        parts.append(f"The metrics in the lake are not of these inputs: {stale['metrics']}.")
    elif lake.manifest("metrics"):
        parts.append(f"Test, phase finetune:\n{main_figures(lake)}")
    option = "" if run.request.config == DEFAULT_FILE else f" --config {run.request.config}"
    there = [verb for verb in TRY if not verb.startswith("show ") or lake.manifest(verb.removeprefix("show "))]
    parts.append("Next:\n" + "\n".join(f"  edt {verb}{option}" for verb in there))
    return "\n\n".join(parts)


def main_figures(lake: Lake) -> str:
    """Return the `metrics_rows` as a table."""
    return text.table(metrics_rows(lake))


def metrics_rows(lake: Lake) -> list[dict[str, Any]]:
    """Return the main test figures of the last phase: a row per protocol and domain."""
    metrics = lake.read("metrics")
    phase = "finetune" if "finetune" in metrics["phase"].to_pylist() else "pretrain"
    of_all = (pc.field("phase") == phase) & (pc.field("split") == "test") & (pc.field("group") == "all")
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in metrics.filter(of_all & pc.field("metric").isin(SHOWN)).to_pylist():
        key = row["protocol"], row["domain"] or "over all"
        rows.setdefault(key, {"protocol": key[0], "domain": key[1], "users": row["users"]})[row["metric"]] = row[
            "value"
        ]
    return list(rows.values())

"""What a person reads at the end of a run, and the line per stage before it."""

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from data_lake.lake import Lake, Manifest
from data_lake.tables import open_parts
from flows import text
from flows.plan import stale_artifacts
from flows.protocols import notes_on_protocols
from flows.run import Run
from pipeline.llm.backends import NONE

REPORT = "report.html"
SHOWN = ("HR@10", "NDCG@10")


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
    """Return what ran, where the artifacts lie, the main figures, what to try next, and the report's path last."""
    lake = run.lake
    names = ", ".join(manifest.stage for manifest in ran) or "nothing"
    parts = [f"Done in {seconds:.0f} s. Made: {names}; skipped: {skipped}.\nArtifacts: {lake.home}"]
    stale = stale_artifacts(run)
    if lake.manifest("metrics") and "metrics" in stale:
        parts.append(f"The metrics in the lake are not of these inputs: {stale['metrics']}.")
    elif lake.manifest("metrics"):
        parts.append(f"Test, phase finetune:\n{main_figures(lake)}")
    parts.append("Next:\n" + "\n".join(f"  {command}" for command in next_commands(run, stale)))
    if run.settings.report.after_run:
        parts.append(f"Report: {report_path(lake)}")
    return "\n\n".join(parts)


def next_commands(run: Run, stale: Collection[str]) -> list[str]:
    """Return the commands that make sense now, with this run's settings; `stale` are the artifacts that are."""
    lake, options = run.lake, run.request.options
    commands = [f"edt run{options}", f"edt status{options}"] if stale else []
    if lake.manifest("recommendations"):
        [user] = open_parts(lake.path("recommendations")).head(1, columns=["user_id"])["user_id"].to_pylist() or [""]
        commands += [f"edt show recommendations{options}"]
        commands += [f"edt explain --user {shlex.quote(user)}{options}"] if user and "checkpoint" not in stale else []
    if lake.manifest("metrics"):
        commands.append(f"edt show metrics{options}")
        commands += [f"edt compare{options}"] if len(lake.kept_runs("metrics")) > 1 else []
    if (rejects := lake.manifest("rejects")) and rejects.outputs["rejects"].rows:
        commands.append(f"edt show rejects{options}")
    if run.settings.enrich.is_on and not stale:
        commands.append(f"edt plan{run.request.with_setting(f'enrich.generator={NONE}').options}")
    return commands


def main_figures(lake: Lake) -> str:
    """Return the `metrics_rows` as a table, and notes on their protocols."""
    in_domains = [row for row in _test_figures(lake) if row["domain"]]
    notes = notes_on_protocols({(row["protocol"], row["domain"]): row["candidates"] for row in in_domains})
    return "\n".join([text.table(metrics_rows(lake)), *notes])


def metrics_rows(lake: Lake) -> list[dict[str, Any]]:
    """Return the main test figures of the last phase: a row per protocol and domain."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in _test_figures(lake):
        key = row["protocol"], row["domain"] or "over all"
        rows.setdefault(key, {"protocol": key[0], "domain": key[1], "users": row["users"]})[row["metric"]] = row[
            "value"
        ]
    return list(rows.values())


def _test_figures(lake: Lake) -> list[dict[str, Any]]:
    """Return the rows of METRICS behind them."""
    metrics = lake.read("metrics")
    phase = "finetune" if "finetune" in metrics["phase"].to_pylist() else "pretrain"
    of_all = (pc.field("phase") == phase) & (pc.field("split") == "test") & (pc.field("group") == "all")
    found: list[dict[str, Any]] = metrics.filter(of_all & pc.field("metric").isin(SHOWN)).to_pylist()
    return found

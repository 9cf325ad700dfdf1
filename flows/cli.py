"""The command line `edt`: verbs over the library. Results go to stdout, progress to stderr.

Exit codes: 0 done, 1 failed, 2 misused, 130 stopped by Ctrl-C.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer

from data_lake.config import RenamedSettingWarning
from data_lake.errors import UnknownIdError, UserError, disk_failure
from data_lake.keyed_cache import DamagedPartWarning
from data_lake.progress import progress
from data_lake.schemas import ARTIFACTS
from flows import text
from flows.local_run import RunFailed, run_locally
from flows.plan import Step, plan, stale_artifacts, status
from flows.run import RunRequest, open_run
from flows.selection import StageSelection
from flows.settings import DEFAULT_FILE, load_settings
from flows.stages import STAGES, open_lake
from pipeline.proxies import spare_loopback

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def stage_names(incomplete: str) -> list[str]:
    """Return what a shell may complete a stage's name to."""
    return [name for name in STAGES if name.startswith(incomplete)]


def artifact_names(incomplete: str) -> list[str]:
    """Return what a shell may complete an artifact's name to."""
    return [name for name in ARTIFACTS if name.startswith(incomplete)]


Config = Annotated[Path, typer.Option("--config", "-c", help="The settings file.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="A setting for this call.")]
Only = Annotated[
    str | None,
    typer.Option("--only", metavar="STAGE", autocompletion=stage_names, help="Make it from what is there, and stop."),
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="STAGE", autocompletion=stage_names, help="Rebuild it and all that follow."),
]
To = Annotated[str | None, typer.Option("--to", metavar="STAGE", autocompletion=stage_names, help="Stop after it.")]
Rerun = Annotated[
    list[str] | None, typer.Option("--rerun", metavar="STAGE", autocompletion=stage_names, help="Rebuild it.")
]
Full = Annotated[
    bool,
    typer.Option(
        "--full", help="Rebuild every stage and train from scratch. What a model replied is used again, not asked."
    ),
]
Knobs = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A knob of the simulator.")]
AskAgain = Annotated[bool, typer.Option("--ask-again", help="Use no reply that the lake holds.")]
Top = Annotated[int | None, typer.Option(min=1, help="Items per user and domain.")]
Domain = Annotated[list[str] | None, typer.Option("--domain", help="Only of this domain.")]
ArtifactName = Annotated[str, typer.Argument(autocompletion=artifact_names)]
Json = Annotated[bool, typer.Option("--json", help="For scripts.")]


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"llm-edt {metadata.version('llm-edt')}")
        raise typer.Exit


@app.callback()
def edt(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """LLM-EDT: raw interaction logs and item texts in; a trained two-phase recommender out."""


@app.command()
def init(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files of interactions and of items: CSV, TSV, JSON lines, Parquet.")
    ] = None,
    interactions: Annotated[list[Path] | None, typer.Option(help="A file that holds interactions.")] = None,
    items: Annotated[list[Path] | None, typer.Option(help="A file that holds items.")] = None,
    domain: Annotated[
        list[str] | None, typer.Option("--domain", metavar="NAME=FILE", help="A file of either kind, of one domain.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="OURS=THEIRS", help="What a column is called; items.OURS: in files of items."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the dataset in the lake.")] = None,
    out: Annotated[Path, typer.Option(help="The settings file to write.")] = DEFAULT_FILE,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Look at files of interactions and of items, and write commented settings that run."""
    from flows.init import FILL_IN, parse_columns, told_by_looking, write_settings

    columns = parse_columns(column or ())
    actions, catalogue = told_by_looking(files or (), interactions or (), items or (), domain or (), columns)
    missing = write_settings(out, actions, catalogue, dataset, force, columns=columns)
    if missing:
        text.log("\n".join(f"not told: {name}: {why.removesuffix('.')}." for name, why in missing.items()))
        text.log(f"error: {out} does not run yet. Complete its lines with '{FILL_IN}', or call again with --column.")
        raise typer.Exit(1)
    text.show(f"{out} is written. {_next(out)}")


@app.command()
def sample(
    out: Annotated[Path, typer.Option(help="Folder for the two files.")] = Path("sample"),
    set_: Knobs = None,
    users: Annotated[int | None, typer.Option(help="Users to simulate.")] = None,
    settings: Annotated[Path, typer.Option(help="Settings to write for them, where there are none.")] = DEFAULT_FILE,
) -> None:
    """Write a simulated world: a file of interactions, a file of items, and settings for them."""
    from flows.sample import write_sample

    knobs = [*(set_ or ()), *([f"users={users}"] if users is not None else ())]
    text.show("\n".join(write_sample(out, settings, knobs)))
    text.show(_next(settings))


@app.command("plan")
def show_plan(
    config: Config = DEFAULT_FILE,
    only: Only = None,
    from_: From = None,
    rerun: Rerun = None,
    to: To = None,
    full: Full = False,
    set_: Set = None,
    ask_again: AskAgain = False,
    as_json: Json = False,
) -> None:
    """Say what a run would do and why, and what it would ask a language model.

    With --json: a list with one object per stage, of stage, state, action, why, rows, seconds and asks. asks is null
    for a stage that asks nothing, else an object of stage, prompts, new, reused, tokens_in, tokens_out, hours and
    note; what is not known yet is null.
    """
    from flows.forecast import forecast, total
    from flows.lift import lift_lines

    with progress("plan"), open_run(_request(config, set_, ask_again, only, from_, rerun, to, full)) as run:
        steps = plan(run)
        found = forecast(run, steps)
        lines = lift_lines(run.lake) if run.settings.enrich.is_on else []
        scale = run.settings.scale
    asked = [asdict(each) for each in found]
    by_stage = {each["stage"]: each for each in asked}
    _print_steps(steps, as_json, ("stage", "action", "rows", "seconds", "why"), {"asks": by_stage})
    if asked and not as_json:
        text.show("\n" + text.table([*asked, asdict(total(found))], widest=200))
    if lines and not as_json:
        text.show("\nWhat was inserted last:\n" + "\n".join(lines))
    if scale.engine == "ray" and not as_json:
        where = scale.address or "RAY_ADDRESS, or this machine"
        holds = f"{scale.cpus_per_worker:g} CPUs and, where it loads a model, {scale.gpus_per_worker:g} GPUs"
        text.show(f"\nShards are made by Ray ({where}): at most {scale.workers} workers a stage, each with {holds}.")


@app.command()
def run(
    config: Config = DEFAULT_FILE,
    only: Only = None,
    from_: From = None,
    rerun: Rerun = None,
    to: To = None,
    full: Full = False,
    set_: Set = None,
    ask_again: AskAgain = False,
) -> None:
    """Make what is missing or stale, from raw files to recommendations."""
    try:
        text.show(run_locally(_request(config, set_, ask_again, only, from_, rerun, to, full)))
    except KeyboardInterrupt:
        last = f" --only {only}" if only else f" --to {to}" if to else ""
        again = f"edt run{last}{_request(config, set_).options}"
        text.log(f"The run is stopped; what it finished is kept, and `{again}` goes on from there.")
        raise typer.Exit(130) from None


@app.command("status")
def show_status(
    config: Config = DEFAULT_FILE,
    set_: Set = None,
    as_json: Json = False,
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file, check that no row saw too much.")] = False,
) -> None:
    """Say how each stage stands: fresh, stale and because of what, missing, or off.

    With --verify --json: `positions` says of a stage whose rows tell what they saw whether any saw too much, else null.
    """
    from flows.positions import check_stages

    with progress("status"), open_run(_request(config, set_)) as run:
        steps = status(run, verify)
        checks = check_stages(run) if verify else {}
    found = {"positions": {stage: str(check) for stage, check in checks.items()}} if verify else {}
    _print_steps(steps, as_json, ("stage", "state", "rows", "seconds", "why"), found)
    if checks and not as_json:
        text.show("\n" + "\n".join(f"{check.artifact}: {check}." for check in checks.values()))
    if leaked := [stage for stage, check in checks.items() if check.leaked]:
        names = ", ".join(leaked)
        text.log(f"error: {names}: rows saw what they must not see. Rebuild with --rerun {leaked[0]}, or report a bug.")
        raise typer.Exit(1)


@app.command()
def show(
    artifact: ArtifactName,
    config: Config = DEFAULT_FILE,
    set_: Set = None,
    user: Annotated[str | None, typer.Option(help="Only the rows of this user.")] = None,
    where: Annotated[
        str | None, typer.Option(help="Only rows for which it holds, in SQL: \"domain = 'food'\".")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="Show so many rows at most.")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Cut no text and no list.")] = False,
    table: Annotated[str | None, typer.Option(help="Of an artifact of several tables.")] = None,
    phase: Annotated[str | None, typer.Option(help="Of metrics: pretrain or finetune.")] = None,
    split: Annotated[str | None, typer.Option(help="Of metrics: validation or test.")] = None,
    group: Annotated[str | None, typer.Option(help="Of metrics: a group of users.")] = None,
    metric: Annotated[str | None, typer.Option(help="Of metrics: such as HR@10.")] = None,
    as_json: Json = False,
) -> None:
    """Show an artifact: key figures, columns, rows. Metrics: a line per protocol and domain."""
    from flows.show import Wanted, describe, format_artifact

    wanted = Wanted(user, table, where, limit, phase, split, group, metric)
    with open_run(_request(config, set_)) as run:
        why = stale_artifacts(run).get(artifact)
        shown = describe(run.lake, artifact, wanted, is_fresh=why is None)
        if why and "error" not in shown:
            text.log(f"{artifact} is stale: {why}.")
    _print(shown, as_json, lambda _: format_artifact(shown, whole))
    if user is not None and not shown["found"]:
        text.log(f"error: {artifact} has no row of user {user!r}.")
        raise typer.Exit(1)


@app.command()
def report(
    config: Config = DEFAULT_FILE,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="The file to write, instead of report.html in the lake.")] = None,
) -> None:
    """Write what the lake holds as one page to look at: data, answers, users, training, metrics, lineage."""
    from flows.report.write import write_report

    with progress("report"), open_run(_request(config, set_)) as run:
        written = write_report(run, out)
    text.show(str(written))


@app.command()
def recommend(
    histories: Annotated[Path | None, typer.Option(help="Actions: user_id, item_id and, if known, time.")] = None,
    users: Annotated[
        Path | None, typer.Option(help="Only these users, one id a line; known ones as they stand.")
    ] = None,
    allow: Annotated[Path | None, typer.Option(help="Nothing but these items, one id a line.")] = None,
    deny: Annotated[Path | None, typer.Option(help="None of these items.")] = None,
    top: Top = None,
    domain: Domain = None,
    out: Annotated[Path | None, typer.Option(help="File to write: .parquet or .jsonl.")] = None,
    config: Config = DEFAULT_FILE,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Recommend by the trained model for histories given now: new users, or today's actions of known ones.

    What a file tells of a known user comes after what the lake holds; an action of the same item and time is the same.
    """
    from flows import recommend as serving

    serving.check_name(out)
    asked = _request(config, set_)
    with progress("recommend"):
        found = serving.recommend(asked, histories, users, domain or (), allow=allow, deny=deny, top=top)
    if out is not None:
        text.show(serving.write(found, out))
    else:
        _print(found.to_pylist(), as_json, lambda _: serving.format_recommendations(found))


@app.command()
def ask(
    user: Annotated[str, typer.Option(help="Its id.")],
    dry: Annotated[
        bool, typer.Option("--dry", help="Ask nothing: show the prompts, and the replies that are kept.")
    ] = False,
    config: Config = DEFAULT_FILE,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Show what a language model is asked about a user, with tokens; ask it, and show what becomes of its reply."""
    from flows.ask import ask as ask_about
    from flows.ask import told

    with progress("ask"), open_run(_request(config, set_)) as run:
        asked = ask_about(run, user, dry)
    _print([asdict(each) for each in asked], as_json, lambda _: told(asked))


@app.command()
def explain(
    user: Annotated[str, typer.Option(help="Its id.")],
    item: Annotated[str | None, typer.Option(help="Only this item, recommended or not.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Recommendations per domain.")] = 5,
    config: Config = DEFAULT_FILE,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Show a user's history, what was inserted, profiles, and what makes the score of each recommendation."""
    from flows.explain import explain as explain_user

    with open_run(_request(config, set_)) as run:
        found = explain_user(run, user, item, top)
    _print(asdict(found), as_json, lambda _: str(found))


@app.command()
def similar(
    item: Annotated[str, typer.Option(help="Its id.")],
    top: Annotated[int, typer.Option(min=1, help="Items per domain.")] = 10,
    domain: Domain = None,
    config: Config = DEFAULT_FILE,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Show the items whose learnt vectors are nearest to an item's."""
    from flows import recommend as serving

    with progress("similar"):
        rows = serving.similar(_request(config, set_), item, top, domain or ())
    _print(rows, as_json, text.table)


@app.command()
def export(
    out: Annotated[Path | None, typer.Option(help="Folder to write (default: exported/DATASET).")] = None,
    with_scorers: Annotated[bool, typer.Option("--scorers", help="Also programs: torch.export, ONNX.")] = False,
    config: Config = DEFAULT_FILE,
    set_: Set = None,
) -> None:
    """Write the model for `llm_edt.load`, vectors of items and users with an index, recommendations, and cards."""
    from flows.export import export

    with progress("export"):
        written = export(_request(config, set_), out, with_scorers)
    text.show("\n".join(written))


@app.command()
def compare(
    a: Annotated[
        str, typer.Argument(help="current, previous, a generator, digits of a fingerprint, or a settings file.")
    ] = "previous",
    b: Annotated[str, typer.Argument(help="The same.")] = "current",
    config: Config = DEFAULT_FILE,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Say what sets two runs apart: settings, inputs, rows, paired differences of metrics, users who won and lost."""
    from flows.compare import compare as compare_runs

    with progress("compare"), open_run(_request(config, set_)) as run:
        found = compare_runs(run, a, b)
    _print(asdict(found), as_json, lambda _: str(found))


@app.command()
def trial(
    config: Config = DEFAULT_FILE,
    users: Annotated[int, typer.Option(min=1, help="Users of two domains to hide one domain of.")] = 1000,
    seeds: Annotated[int, typer.Option(min=1, help="Of the training, with and without each.")] = 2,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Would the generator pay on this data? Ask about a few users only, train with and without, and compare."""
    from flows.trial import told
    from flows.trial import trial as run_trial

    outcome = run_trial(_request(config, set_), users, seeds)
    _print(asdict(outcome), as_json, lambda _: told(outcome))


@app.command("forget-user")
def forget_user(user: str, config: Config = DEFAULT_FILE, set_: Set = None) -> None:
    """Remove a user from every artifact, memory and old version, and refuse the user's rows from now on."""
    from flows.forget import forget_user as forget

    with open_run(_request(config, set_)) as run:
        text.show(str(forget(run, user)))


@app.command()
def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing, say what would go.")] = False,
    config: Config = DEFAULT_FILE,
    set_: Set = None,
) -> None:
    """Remove old versions, unfinished work, replies and vectors that nothing current needs."""
    from flows.clean import clean as remove_unneeded

    with open_run(_request(config, set_)) as run:
        text.show(str(remove_unneeded(run, dry_run)))


@app.command()
def path(artifact: ArtifactName, config: Config = DEFAULT_FILE, set_: Set = None) -> None:
    """Print the folder of an artifact."""
    print(open_lake(load_settings(config, set_ or ())).path(artifact))


@app.command()
def serve(
    config: Config = DEFAULT_FILE,
    cron: Annotated[str, typer.Option(help="When to run, in UTC.")] = "0 2 * * *",
    set_: Set = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take a deployment from other settings.")] = False,
) -> None:
    """Run by a schedule, on the server of PREFECT_API_URL or on one started here on loopback."""
    from flows.serve import serve

    serve(config, cron, set_ or (), replace)


def main() -> None:
    """Run the command line; a mistake that the user can fix is a sentence without a traceback."""
    warnings.showwarning = _warn
    spare_loopback()
    os.environ.setdefault("DO_NOT_TRACK", "1")  # read by Prefect and vLLM, which else report what they are used for
    sys.excepthook = text.log_crash
    try:
        app()
    except (UserError, RunFailed) as error:
        is_misuse = isinstance(error, UserError) and not isinstance(error, UnknownIdError)
        _fail(str(error), 2 if is_misuse else 1)
    except OSError as error:
        why = disk_failure(error)
        if why is None:
            raise
        _fail(why, 1)


def _fail(why: str, code: int) -> NoReturn:
    text.log("\n".join(f"error: {line}" for line in why.splitlines()))
    sys.exit(code)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning of ours as a sentence; those of libraries are not for the person at the terminal."""
    if issubclass(category, (RenamedSettingWarning, DamagedPartWarning)):
        text.log(f"warning: {str(message).removesuffix('.')}.")


def _request(
    config: Path,
    set_: list[str] | None,
    ask_again: bool = False,
    only: str | None = None,
    from_: str | None = None,
    rerun: list[str] | None = None,
    to: str | None = None,
    full: bool = False,
) -> RunRequest:
    selection = StageSelection(only, from_, tuple(rerun or ()), to, full)
    return RunRequest(config=config, overrides=tuple(set_ or ()), selection=selection, ask_again=ask_again)


def _next(config: Path) -> str:
    options = RunRequest(config=config).options
    return f"Next: edt plan{options}, then edt run{options}"


def _print_steps(
    steps: list[Step], as_json: bool, columns: tuple[str, ...], more: dict[str, dict[str, Any]] | None = None
) -> None:
    """Print a row per step; `more` are further keys of the JSON, each with its value by stage."""
    added = [{name: values.get(step.stage) for name, values in (more or {}).items()} for step in steps]
    rows: list[dict[str, Any]] = [asdict(step) | each for step, each in zip(steps, added, strict=True)]
    shown = [{name: row[name] for name in columns} for row in rows]
    _print(rows, as_json, lambda _: text.table(shown, widest=200))


def _print(found: Any, as_json: bool, told: Callable[[Any], str]) -> None:
    """Print a result as it is in JSON, which has no control characters, or as it is told to a person."""
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        text.show(told(found))


if __name__ == "__main__":
    main()

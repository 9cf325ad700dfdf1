import contextlib
import json
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data_lake.lake import Lake
from flows.cli import app, artifact_names, stage_names
from flows.stages import STAGES
from pipeline.vectors.neighbours import Index
from tests.flows.by_default import ON_BY_DEFAULT


def test_a_run_with_nothing_to_do_imports_neither_prefect_nor_torch(finished):
    program = (
        "import sys, flows.cli as cli; sys.argv = ['edt', 'run']\n"
        "try: cli.main()\n"
        "finally: print(sorted({'prefect', 'torch', 'transformers', 'polars', 'vllm'} & set(sys.modules)))"
    )
    done = finished.python("-c", program)
    assert done.stdout.splitlines()[0].startswith("Nothing to do: every stage is fresh")
    assert done.stdout.splitlines()[-1] == "[]"


def test_status_tells_how_each_stage_stands(finished):
    shown = json.loads(finished.edt("status", "--json", "--set", "enrich.generator=none").stdout)
    assert [row["stage"] for row in shown] == list(STAGES)
    by_name = {row["stage"]: row for row in shown}
    assert by_name["split"]["state"] == "fresh"
    assert by_name["split"]["rows"] == 50
    assert by_name["ground"]["state"] == "off"
    assert by_name["assemble"]["state"] == "stale"
    assert "input augmented_sequences is no longer read" in by_name["assemble"]["why"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("status",), 0, ""),
        (("path", "nope"), 2, "There is no artifact 'nope'"),
        (("run", "--set", "trian.seed=1"), 2, "the nearest known one is [train]"),
        (("run", "--only", "nope"), 2, "'nope' is no stage"),
        (("run", "--to", "nope"), 2, "'nope' is no stage"),
        (("plan", "--only", "split", "--to", "split"), 2, "--only and --to exclude each other"),
        (("run", "--bogus"), 2, "No such option"),
        (
            ("init", "--interactions", "interactions.csv", "--items", "items.csv", "--dataset", "a b", "--out", "x"),
            2,
            "a b: ",
        ),
        (("show", "metrics", "--config", "nowhere.toml"), 2, "no such settings file"),
        (("run", "--set", "data.items=nowhere.csv"), 2, "nowhere.csv: no such file"),
        (("run", "--set", "data.columns.user_id=who"), 1, "who"),
        (
            ("plan", "--set", "enrich.generator=vllm", "--set", "llm.model=edt-tiny"),
            2,
            "error: [llm] max_model_len = 4096 is more than the 2048 positions that edt-tiny has",
        ),
    ],
)
def test_exit_codes(finished, arguments, code, message):
    done = finished.edt(*arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in " ".join(done.stderr.split())


def test_init_writes_settings_that_a_plan_can_read_and_keeps_what_is_there(finished, tmp_path):
    files = ("--interactions", str(finished.folder / "interactions.csv"), "--items", str(finished.folder / "items.csv"))
    out = tmp_path / "edt.toml"
    assert finished.edt("init", *files, "--dataset", "shop", "--out", str(out)).returncode == 0
    planned = json.loads(finished.edt("plan", "--json", "--config", str(out)).stdout)
    assert [row["stage"] for row in planned if row["action"] == "run"] == list(ON_BY_DEFAULT)
    before = out.read_text()
    refused = finished.edt("init", *files, "--out", str(out))
    assert (refused.returncode, out.read_text()) == (2, before)
    assert "--force" in refused.stderr


def test_a_run_stops_after_the_stage_it_is_told(place):
    told = ("--to", "profile_domains", "--set", "profile.words=40", "--set", "train.finetune.epochs=2")
    planned = {step["stage"]: step["action"] for step in json.loads(place.edt("plan", "--json", *told).stdout)}
    assert [stage for stage, action in planned.items() if action not in ("skip", "off")] == ["profile_domains"]
    before = place.lake.manifest("checkpoint").fingerprint
    done = place.edt("run", *told)
    assert done.returncode == 0, done.stderr
    assert place.lake.manifest("domain_profiles").settings["profile"]["words"] == 40
    assert place.lake.manifest("checkpoint").fingerprint == before
    assert place.edt("run", *told).stdout.startswith("Nothing to do: every stage up to profile_domains is fresh")


def test_sample_writes_two_files_and_settings_and_can_be_called_again(finished, tmp_path):
    for _ in range(2):
        done = finished.python("-m", "flows.cli", "sample", "--users", "20", "--set", "items=40", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "edt run" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edt.toml", "sample"]
    assert sorted(path.name for path in (tmp_path / "sample").iterdir()) == ["interactions.csv", "items.csv"]


@pytest.mark.parametrize(("stage", "artifact"), [("generate_items", "generated_items"), ("ground", "grounded_items")])
def test_what_an_index_found_is_shown_with_its_recall(place, monkeypatch, stage, artifact):
    """The index of this test has lost every second item, so that it must miss some nearest ones."""
    from flows.show import describe, format_artifact

    whole = Index.__init__

    def lossy(self, vectors):
        whole(self, vectors)
        self._index.remove_ids(np.arange(0, len(vectors), 2))

    monkeypatch.setattr(Index, "__init__", lossy)
    assert place.run(set_=("enrich.exact_up_to=5",), only=stage) == [stage]
    counts = place.lake.manifest(artifact).figures["neighbours"]
    assert 0 < counts["found"] < counts["checked"]
    shown = format_artifact(describe(place.lake, artifact))
    assert re.search(rf"^neighbours: checked +{counts['checked']:,}$", shown, re.MULTILINE)
    assert re.search(rf"^neighbours: recall +{counts['found'] / counts['checked']:.4f}$", shown, re.MULTILINE)


def test_the_summary_proposes_to_show_only_what_is_there(finished, tmp_path):
    from flows.summary import summary

    with finished.open() as run:
        runs = run, replace(run, lake=Lake(tmp_path, "new"))
        proposed = [summary(each, [], 0, 1.0).split("Next:\n")[1].split("\n")[0] for each in runs]
    option = f" --config {finished.config}"
    assert proposed == [f"  edt show recommendations{option}", f"  edt run{option}"]


def test_the_summary_proposes_commands_with_the_settings_of_the_run_and_ends_with_the_report(finished):
    from flows.summary import next_commands, summary

    settings = ("enrich.budget=10", "report.after_run=true")
    with finished.open(*settings) as run:
        told, commands = summary(run, [], 0, 1.0), next_commands(run, ())
    options = f" --config {finished.config} --set enrich.budget=10 --set report.after_run=true"
    user = finished.lake.read("recommendations")["user_id"][0].as_py()
    assert commands == [
        f"edt show recommendations{options}", f"edt explain --user {user}{options}", f"edt show metrics{options}",
        f"edt plan{options} --set enrich.generator=none",
    ]  # fmt: skip
    assert told.splitlines()[-1] == f"Report: {finished.lake.home / 'report.html'}"
    assert told.splitlines()[-3] == f"  {commands[-1]}"


def test_a_proposed_command_gives_a_setting_once(finished):
    from flows.summary import next_commands

    with finished.open("enrich.generator=retrieval", "enrich.budget=10") as run:
        commands = next_commands(run, ())
    assert commands[-1] == f"edt plan --config {finished.config} --set enrich.generator=none --set enrich.budget=10"


def test_figures_of_other_inputs_are_named_stale_and_not_shown_as_this_runs(place):
    with (place.folder / "interactions.csv").open("a") as file:
        file.write("u01,food-01,food,1700000000,5\n")
    done = place.edt("run", "--only", "ingest")
    assert done.returncode == 0, done.stderr
    assert "The metrics in the lake are not of these inputs: stage " in done.stdout
    assert "HR@10" not in done.stdout
    shown = place.edt("show", "metrics")
    assert shown.stderr.startswith("metrics is stale: ")
    assert "HR@10" in shown.stdout


def test_a_setting_under_its_old_name_works_and_warns_in_one_line(finished):
    done = finished.edt("status", "--set", "enrich.evidence=0.8")
    assert (done.returncode, done.stderr) == (
        0, "warning: setting evidence is now called prompt_share; the old name will stop working.\n",
    )  # fmt: skip


def zeros_of_the_same_time(path):
    stat = path.stat()
    path.write_bytes(b"PAR1" + path.read_bytes()[4:8] + b"\0" * 80 + path.read_bytes()[88:])
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [(Path.unlink, "sequences/part-00000.parquet is missing"),
     (zeros_of_the_same_time, "sequences/part-00000.parquet: content differs")],
)  # fmt: skip
def test_an_artifact_that_is_not_what_was_written_is_not_shown(place, damage, problem):
    damage(place.lake.path("sequences") / "part-00000.parquet")
    done = place.edt("show", "sequences")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {problem}: it is not what was written. Rebuild it with --rerun split.\n"


def test_the_rows_that_an_ingest_refused_are_shown_though_it_failed(place):
    good = (place.folder / "interactions.csv").read_text()
    (place.folder / "interactions.csv").write_text("user_id,item_id,timestamp\nu,no such item,1700000000\n")
    done = place.edt("run", "--only", "ingest")
    assert done.returncode != 0
    assert "1 of 1 interaction rows are bad" in done.stderr
    shown = place.edt("show", "rejects").stdout
    assert "of a run that failed: 1 of 1 interaction rows are bad" in shown
    assert '"item_id":"no such item"' in shown
    [row] = json.loads(place.edt("show", "rejects", "--json").stdout)["rows"]
    assert (row["line"], row["reason"]) == (2, "unknown_item")
    (place.folder / "interactions.csv").write_text(good)
    assert place.edt("run", "--rerun", "ingest", "--to", "ingest").returncode == 0
    assert "error" not in json.loads(place.edt("show", "rejects", "--json").stdout)


def test_seconds_have_one_decimal_and_figures_below_one_have_four():
    from flows import text

    shown = text.table(
        [{"stage": "split", "seconds": 0.4, "HR@10": 0.4}, {"stage": "ingest", "seconds": 62.25, "HR@10": None}]
    )
    assert shown.splitlines() == ["stage   seconds   HR@10", "split       0.4  0.4000", "ingest     62.2"]


def test_text_from_the_data_cannot_steer_the_terminal():
    from flows import text

    assert text.escape_control("a\x1b[2Jb\nc\u202ed") == "a\\u001b[2Jb\\u000ac\\u202ed"
    assert "\x1b" not in text.table([{"title": "\x1b]0;owned\x07"}])


def test_prefect_neither_reports_use_nor_speaks_of_it_in_a_terminal(finished, tmp_path):
    ours, terminal = pty.openpty()
    command = finished.command("serve", "--cron", "nonsense")  # loads Prefect, and says no more than what is wrong
    environment = finished.environment() | {"PREFECT_HOME": str(tmp_path)}
    subprocess.run(command, cwd=finished.folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert len(said.splitlines()) == 1, said
    assert 'Write five fields, for example "0 2 * * *".' in said


def kill_when(place, ready, how=signal.SIGKILL, environment=None, options=()) -> int:
    """Start `edt run`, signal its process group once `ready()` holds, and return its exit code."""
    environment = environment or place.environment()
    with open(place.folder / "log", "wb") as log:
        run = subprocess.Popen(
            place.command("run", *options),
            cwd=place.folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not ready():
            assert run.poll() is None, (place.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.killpg(run.pid, how)
        return run.wait(20)
    finally:
        run.kill()


@pytest.mark.slow
def test_a_run_killed_in_generation_and_in_training_ends_as_if_it_had_not_been(finished, fresh_place):
    place, home = fresh_place, fresh_place.lake.home
    kill_when(place, lambda: len(list(home.glob("generated_items/.shards-*/*.parquet"))) >= 3)
    assert place.lake.manifest("generated_items") is None
    kill_when(place, lambda: list(home.glob("pretrained/.work-*/history.parquet")))
    assert place.lake.manifest("pretrained") is None
    generated = place.lake.manifest("generated_items")
    assert 3 <= generated.figures["shards_resumed"] < generated.figures["shards"]

    done = place.edt("run")
    assert done.returncode == 0, done.stderr
    assert "pretrain epoch 3/3" in done.stderr
    assert "pretrain epoch 1/3" not in done.stderr
    assert place.contents() == finished.contents()
    assert not [path for path in home.rglob(".*") if path.name.startswith((".tmp-", ".work-", ".shards-"))]


@pytest.mark.parametrize(
    ("forgotten", "busy", "options"),
    [
        (("item_embeddings", "memory"), "pipeline.vectors.embedding", ("--to", "represent")),
        pytest.param(("pretrained",), "model train", ("--only", "pretrain"), marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_ends_a_run_and_its_own_server_with_a_sentence_and_leaves_no_process(
    place, tmp_path, forgotten, busy, options
):
    """As a terminal sends it: to the run and to all that shares its process group."""
    for name in forgotten:
        shutil.rmtree(place.lake.home / name)
    home = tmp_path / "prefect"
    environment = {name: value for name, value in place.environment().items() if not name.startswith("PREFECT_API")}
    code = kill_when(
        place,
        lambda: any(busy in command for command in commands(home)),
        signal.SIGINT,
        environment | {"PREFECT_HOME": str(home)},
        options,
    )
    log = (place.folder / "log").read_text()
    assert code == 130, log
    again = " ".join(("edt run", *options))
    assert log.splitlines()[-1] == f"The run is stopped; what it finished is kept, and `{again}` goes on from there."
    assert "Traceback" not in log
    deadline = time.monotonic() + 5  # one that had only just been started ends a moment after us
    while left := commands(home):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as base:
        assert base.execute("select state_name from flow_run").fetchall() == [("Crashed",)]  # its last words were heard


def commands(home) -> list[str]:
    """Return the command lines of all processes that live with this folder as PREFECT_HOME."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"PREFECT_HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def test_a_prefect_server_that_does_not_answer_is_named(place):
    place.config.write_text(place.config.read_text() + "[recommend]\ntop = 3\n")
    done = subprocess.run(
        place.command("run"),
        cwd=place.folder,
        env=place.environment() | {"PREFECT_API_URL": "http://127.0.0.1:9/api"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: PREFECT_API_URL=http://127.0.0.1:9/api does not answer")


def test_control_characters_in_what_is_logged_are_escaped(capsys):
    from flows.text import log

    log("domain \x1b[31mfood\u202e\r\nis red")
    assert capsys.readouterr().err == "domain \\u001b[31mfood\\u202e\\u000d\nis red\n"


def test_the_version_is_that_of_the_package():
    done = CliRunner().invoke(app, ["--version"])
    assert done.stdout == f"llm-edt {metadata.version('llm-edt')}\n"


def test_a_shell_completes_stages_and_artifacts():
    assert stage_names("profile_") == ["profile_domains", "profile_users"]
    assert artifact_names("ground") == ["grounded_items"]

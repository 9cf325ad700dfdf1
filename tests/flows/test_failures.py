import io
import re
import sys
from pathlib import Path

import pytest

from data_lake.errors import UserError
from data_lake.lake import Lake
from flows.failures import stage_failed
from flows.local_run import run_locally
from flows.nightly import run_stage
from flows.run import RunRequest
from flows.server import _wait, secret_file
from pipeline.processes.child import Child

BREAK = """
import os

os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"  # what `edt run` does before it loads Prefect

from data_lake.lake import Lake
from flows import cli, nightly

made = Lake.run

def run(lake, stage):
    if stage.name == "recommend":
        raise RuntimeError("the trainer ended. Its last lines:\\n" + "\\n".join(f"line {n}" for n in range(1, 100)))
    return made(lake, stage)

Lake.run = run
nightly.run_stage.retry_delay_seconds = [0.01, 0.02]
cli.main()
"""
"""The command line, with a stage that always fails."""


def test_a_stage_that_works_in_its_third_try_says_of_each_failure_when_the_next_try_comes(place, monkeypatch, capfd):
    made, failures = Lake.run, [RuntimeError("no memory\nleft"), ValueError("still none")]

    def run(lake, stage):
        if stage.name == "recommend" and failures:
            raise failures.pop(0)
        return made(lake, stage)

    monkeypatch.setattr(Lake, "run", run)
    monkeypatch.setattr(run_stage, "retry_delay_seconds", [0.01, 0.02])
    assert place.run(rerun=("recommend",)) == ["recommend"]
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("recommend failed")]
    assert told == [
        "recommend failed (try 1 of 3): RuntimeError: no memory ... left. Next try in 0.01 s.",
        "recommend failed (try 2 of 3): ValueError: still none. Next try in 0.02 s.",
    ]


def test_a_stage_that_always_fails_ends_the_run_with_a_report_a_few_lines_and_the_place_of_its_log(place):
    place.config.write_text(place.config.read_text() + "[recommend]\ntop = 3\n")
    done = place.python("-c", BREAK, "run", "--set", "report.after_run=true")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    stale, *lines = [line for line in done.stderr.splitlines() if "skipped: " not in line]
    assert stale.startswith("Stale: recommend")
    why = "RuntimeError: the trainer ended. Its last lines:"
    assert lines[:2] == [
        f"recommend failed (try 1 of 3): {why} ... line 99. Next try in 0.01 s.",
        f"recommend failed (try 2 of 3): {why} ... line 99. Next try in 0.02 s.",
    ]
    page = place.lake.home / "report.html"
    assert lines[2:-1] == [
        f"Report: {page}",
        f"error: recommend failed (try 3 of 3): {why}",
        *(f"error: line {n}" for n in range(99, 100)),
    ]
    log = Path(re.fullmatch(r"error: Its traceback is in (.*/logs/recommend-\d{8}T\d{6}Z\.log)", lines[-1])[1])
    assert log.parents[1] == place.lake.home
    assert "Traceback (most recent call last)" in log.read_text()
    assert "line 50" in log.read_text()
    failed, stale = re.findall(r'<p class="note">(.*?)</p>', page.read_text(), re.DOTALL)
    assert failed.startswith(f"<b>The run failed at recommend.</b> recommend failed (try 3 of 3): {why}\nline 99\n")
    assert stale.startswith("<b>Not all is current.</b> recommendations: ")


def test_a_report_that_cannot_be_written_does_not_hide_why_the_run_failed(place, monkeypatch, capfd):
    def fails(lake, stage):
        raise UserError(f"{stage.name} is refused")

    def no_report(run, failed):
        raise OSError("no room for the page")

    monkeypatch.setattr(Lake, "run", fails)
    monkeypatch.setattr("flows.nightly.report", no_report)
    with pytest.raises(UserError, match="recommend is refused"):
        place.run(only="recommend", set_=("report.after_run=true",))
    assert "The report could not be written: OSError: no room for the page\n" in capfd.readouterr().err


def test_a_disk_that_takes_no_log_does_not_hide_the_failure(tmp_path):
    (tmp_path / "logs").write_text("a file, where a folder should be")
    told = str(stage_failed("ingest", OSError("No space left on device"), tmp_path / "logs", 1, []))
    assert told.startswith("ingest failed (try 1 of 1): OSError: No space left on device\nIts traceback could not be")


def test_an_error_without_words_is_told_by_its_name(tmp_path):
    told = str(stage_failed("ingest", MemoryError("\n"), tmp_path, 1, []))
    assert told.splitlines()[0] == "ingest failed (try 1 of 1): MemoryError"


FULL = BREAK.replace("raise RuntimeError(", "raise OSError(28, 'No space left on device', '/lake/part') or (")
"""The command line, with a disk that is full at a stage."""


def test_a_full_disk_is_one_sentence_at_once_and_not_tried_again(place):
    place.config.write_text(place.config.read_text() + "[recommend]\ntop = 3\n")
    done = place.python("-c", FULL, "run")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "skipped: " not in line][1:] == [
        "error: recommend: No space left on device: /lake/part. Make room and run again: what is finished is kept."
    ]


GONE = """
import sys, time

from flows import server
from pipeline.processes.child import Child

server.GONE_SECONDS, server.LOOK_SECONDS = 0, 0.05
whose = sys.argv[1]
ends = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)" if whose == "ours" else "import time; time.sleep(600)"
if whose == "ours, on a full disk":
    server.LEAST_FREE = 2**80
child = None if whose == "another" else Child([sys.executable, "-c", ends])
with server.ending_without(server.Server("http://u:s3cret@127.0.0.1:9/api", child)):
    time.sleep(600)
"""


def test_a_server_that_is_killed_while_it_starts_is_not_said_to_be_silent():
    child = Child([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
    with io.BytesIO() as words, pytest.raises(UserError, match=r"did not start: it ended \(SIGKILL\)\. Its database"):
        _wait(child, "http://127.0.0.1:9/health", words)
    child.end()


@pytest.mark.parametrize(
    ("whose", "told"),
    [
        ("ours", "Prefect's own server ended in the middle of the run (SIGKILL)"),
        ("ours, on a full disk", "no space left on the disk of {home}, where Prefect's own server writes"),
        ("another", "Prefect's server at http://***@127.0.0.1:9/api refuses connections"),
    ],
)
def test_a_run_ends_with_a_sentence_once_prefect_s_server_is_gone_or_cannot_write(place, whose, told):
    done = place.python("-c", GONE, whose)
    told = told.format(home=secret_file().parent)
    assert done.returncode == 1
    assert done.stderr == f"error: {told}. What is finished is kept: run again, and it goes on from there.\n"


ODD = """
import httpx

from flows import cli, nightly

def run_as_flow(run):
    raise httpx.ReadError("the server broke off\\nmore of it")

nightly.run_as_flow = run_as_flow
cli.main()
"""


def test_a_prefect_server_that_answers_badly_is_one_sentence(place):
    place.config.write_text(place.config.read_text() + "[recommend]\ntop = 3\n")
    done = place.python("-c", ODD, "run")
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == [
        "error: Prefect's server does not answer as it should (the server broke off). What is finished is kept: run "
        "again, and it goes on from there."
    ]


def test_a_run_with_nothing_to_do_removes_what_a_killed_one_left(place):
    left_over = place.lake.home / "items" / ".tmp-half"
    left_over.touch()
    assert place.edt("run").stdout.startswith("Nothing to do")
    assert not left_over.exists()


def test_a_run_with_nothing_to_do_writes_the_report_that_is_missing(place):
    page = place.lake.home / "report.html"
    page.unlink()
    request = RunRequest(config=place.config, overrides=("report.after_run=true",))
    told = run_locally(request)
    assert told.startswith("Nothing to do")
    assert told.endswith(f"\nReport: {page}")
    written = page.stat().st_mtime_ns
    run_locally(request)
    assert page.stat().st_mtime_ns == written

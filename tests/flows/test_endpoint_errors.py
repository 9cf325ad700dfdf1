"""What a person at the terminal sees of endpoints, proxies and servers that do not do what they should."""

import signal
import subprocess
import sys
import time

import pytest

from flows import text
from model.checkpoint import Progress
from model.training.report import Report
from tests.pipeline.raw_endpoint import RawEndpoint, silent
from tests.pipeline.stub_endpoint import StubEndpoint

DEAD = "127.0.0.1:9"


def run(place, *arguments, **environment):
    """Run the command line, with one stale stage to make, to its end."""
    return subprocess.run(
        place.command("run", "--set", "recommend.top=3", *arguments), cwd=place.folder,
        env=place.environment() | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"http://u:s3cret@{DEAD}/api", f"error: PREFECT_API_URL=http://***@{DEAD}/api does not answer"),
        ("http://h:s3cret/api", "error: PREFECT_API_URL is no URL"),
    ],
)
def test_what_a_prefect_address_holds_before_its_host_is_not_shown(place, url, said):
    done = run(place, PREFECT_API_URL=url)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(said)
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["HTTP_PROXY", pytest.param("all_proxy", marks=pytest.mark.slow)])
def test_prefect_s_server_on_loopback_is_asked_directly_whatever_proxy_is_set(place, name):
    done = run(place, **{name: f"http://{DEAD}"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Done in")


def test_a_socks_proxy_without_its_package_is_one_sentence_before_anything_is_made(place):
    done = run(place, ALL_PROXY=f"socks5://{DEAD}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == [
        "error: The environment variable ALL_PROXY names a SOCKS proxy, which needs the package socksio: install it, "
        "or unset ALL_PROXY."
    ]


def test_a_refused_key_is_one_line_with_the_endpoint_s_words_and_no_escape(place):
    with StubEndpoint() as endpoint:
        endpoint.script = _Always((401, {}, b'{"error": {"message": "no such key\x1b[2J"}}'))
        done = run(place, "--only", "generate_items", *asking(endpoint.url))
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "refuses the key (401: no such key\\u001b[2J)" in line
    assert "\x1b" not in done.stderr + done.stdout


def test_ctrl_c_ends_a_run_that_waits_for_a_silent_endpoint(place):
    with RawEndpoint() as endpoint:
        endpoint.script = _Always(silent)
        process = subprocess.Popen(
            place.command("run", "--only", "generate_items", *asking(endpoint.url)), cwd=place.folder,
            env=place.environment(), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            while not endpoint.asked:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=200)  # the requests would wait for 300 s
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 130
    assert told.splitlines()[-1].startswith("The run is stopped; what it finished is kept")


def asking(url):
    """Return the options of a run that asks an endpoint."""
    settings = ["enrich.generator=openai", "llm.model=m", f"openai.base_url={url}"]
    return [part for each in settings for part in ("--set", each)]


class _Always:
    """A script that says the same to every prompt."""

    def __init__(self, answer):
        self._answer = answer

    def get(self, prompt, usual=None):
        return self._answer


def test_neither_results_nor_messages_can_steer_the_terminal_or_show_credentials(capsys):
    for say in (text.show, text.log):
        say("food\x1b[2J to s3://k:s3cret@bucket\nnext")
    shown = capsys.readouterr()
    assert shown.out == shown.err == "food\\u001b[2J to s3://***@bucket\nnext\n"


def test_a_traceback_shows_no_credentials(capsys):
    try:
        raise RuntimeError("http://u:s3cret@h is away\x1b[2J")
    except RuntimeError:
        text.log_crash(*sys.exc_info())
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "Traceback (most recent call last):"
    assert told[-1] == "RuntimeError: http://***@h is away\\u001b[2J"


def test_a_domain_s_name_cannot_steer_the_terminal_while_a_phase_is_trained(capsys):
    progress = Progress(1, 2, 0.5, {}, 0.001)
    row = {"protocol": "full", "metric": "NDCG@10", "best": False, "value": 0.1}
    Report("pretrain", 2, None).epoch(progress, row, {"food\x1b[2J": 0.1}, "fast")
    assert "food\\u001b[2J 0.1000" in capsys.readouterr().err

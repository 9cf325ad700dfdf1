import os
import socket

import pytest

from data_lake.errors import UserError
from pipeline.config import LLMConfig, OpenAIConfig
from pipeline.llm.openai import OpenAI
from pipeline.proxies import VARIABLES, check_proxies, is_loopback, spare_loopback
from tests.pipeline.stub_endpoint import StubEndpoint, ask


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in (*VARIABLES, "NO_PROXY"):
        monkeypatch.setenv(name, "")
        monkeypatch.setenv(name.lower(), "")


@pytest.fixture
def closed_port():
    """A port of this machine on which nobody answers."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def openai(url):
    return OpenAI(LLMConfig(model="m"), OpenAIConfig(base_url=url, retries=0))


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_an_endpoint_on_loopback_is_asked_directly_whatever_proxy_is_set(monkeypatch, closed_port, name, scheme):
    monkeypatch.setenv(name, f"{scheme}://127.0.0.1:{closed_port}")
    with StubEndpoint() as endpoint:
        assert openai(endpoint.url)(ask("rice"))[0].text == '{"items": ["rice"]}'
        named = endpoint.url.replace("127.0.0.1", "localhost")
        assert openai(named)(ask("tea"))[0].text == '{"items": ["tea"]}'


def test_a_proxy_that_is_not_there_is_named_by_its_variable(monkeypatch, closed_port):
    monkeypatch.setenv("HTTP_PROXY", f"http://user:s3cret@127.0.0.1:{closed_port}")
    with pytest.raises(UserError, match=r"cannot be reached \(.* through the proxy of HTTP_PROXY\)") as raised:
        openai("http://models.example/v1")(ask("rice"))
    assert "s3cret" not in str(raised.value)


def test_a_proxy_that_wants_a_password_is_named_by_its_variable(monkeypatch):
    with StubEndpoint() as proxy:
        proxy.script = {"rice": (407, {}, b"who are you?")}
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        with pytest.raises(UserError, match=r"The proxy of http_proxy asks for a password .*407: who are you"):
            openai("http://models.example/v1")(ask("rice"))


@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
def test_a_socks_proxy_without_its_package_is_a_sentence_that_names_the_variable(monkeypatch, name):
    monkeypatch.setenv(name, "socks5://user:s3cret@127.0.0.1:9")
    with pytest.raises(UserError, match=f"variable {name} names a SOCKS proxy, which needs the package") as raised:
        openai("http://models.example/v1")(ask("rice"))
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("url", ["socks4://user:s3cret@h", "nonsense://user:s3cret@h", "http://h:s3cret"])
def test_a_proxy_that_is_none_is_a_sentence_that_does_not_show_it(monkeypatch, url):
    monkeypatch.setenv("HTTP_PROXY", url)
    with pytest.raises(UserError, match="variable HTTP_PROXY names no proxy") as raised:
        check_proxies()
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        ("localhost", True), ("LOCALHOST", True), ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True),
        ("[::1]", True), ("10.0.0.1", False), ("127.0.0.1.example", False), ("models.example", False),
    ],
)  # fmt: skip
def test_loopback_is_known_by_name_and_address(host, is_it):
    assert is_loopback(host) is is_it


def test_loopback_is_added_to_the_hosts_that_are_asked_without_a_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "corp.example, localhost")
    spare_loopback("127.0.0.2", "models.example")
    listed = "corp.example,localhost,127.0.0.1,::1,127.0.0.2"
    assert (os.environ["NO_PROXY"], os.environ["no_proxy"]) == (listed, listed)

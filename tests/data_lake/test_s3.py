"""A lake on a real S3 server on loopback: moto's, which keeps conditional writes."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from data_lake.errors import UserError
from data_lake.lake import Lake, Stage
from tests.data_lake.writers import one_of_many_gets_the_lock
from tests.sockets import free_port

s3fs = pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
pytest.importorskip("moto.server", reason="moto is not installed")

Items = Callable[..., pa.Table]
Writes = Callable[..., Stage]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = tmp_path_factory.mktemp("s3") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        while True:
            assert server.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def url(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": endpoint, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    bucket = uuid.uuid4().hex
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/lake"


def test_an_artifact_made_on_one_machine_is_read_on_another(
    here: Lake, there: Lake, items: Items, writes: Writes
) -> None:
    stage = writes("ingest", {"items": items("tea", "pan")})
    with here.lock():
        here.run(stage)
        with pytest.raises(UserError, match="Dataset 'shop' is being written by process"), there.lock():
            pass
    with there.lock():
        assert there.run(stage).skipped
    assert there.read("items")["title"].to_pylist() == ["tea", "pan"]
    assert there.find_alteration("items", full=True) == ""


def test_a_bucket_that_is_not_there_is_named(url: str, items: Items, writes: Writes, tmp_path: Path) -> None:
    lake = Lake(f"{url.rpartition('/')[0]}-other/lake", "shop", cache=tmp_path)
    with pytest.raises(UserError, match=r"root: .*-other/lake/shop/.* \(The specified bucket does not exist\)"):
        lake.run(writes("ingest", {"items": items("tea")}))


def test_of_writers_that_come_at_once_one_gets_the_lock(url: str, here: Lake, tmp_path: Path) -> None:
    with here.lock():
        pass
    assert one_of_many_gets_the_lock(url, tmp_path)


def test_what_another_one_made_current_after_the_check_of_the_lock_stays(
    here: Lake, items: Items, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with here.lock():
        here.run(writes("ingest", {"items": items("tea")}))
        current, fs = f"{here.store._base}/items/current", s3fs.S3FileSystem()
        monkeypatch.setattr(here.store, "_check_owner", lambda: fs.pipe_file(current, b"of another"))
        with pytest.raises(OSError, match="pre-conditions"):
            here.store._put_current(current, b"ours")
    assert fs.cat_file(current) == b"of another"


@pytest.mark.slow
def test_a_reader_that_polls_sees_each_time_one_whole_artifact(
    here: Lake, there: Lake, items: Items, writes: Writes
) -> None:
    """200 publishes; each artifact holds twenty times the same title."""
    seen: list[list[str]] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            seen.append(there.read("items")["title"].to_pylist())
            time.sleep(0.02)

    reader = threading.Thread(target=read)
    with here.lock():
        for number in range(200):
            here.run(writes("ingest", {"items": items(*[f"title {number}"] * 20)}, settings={"number": number}))
            if number == 0:
                reader.start()
    is_over.set()
    reader.join()
    assert all(len(titles) == 20 and len(set(titles)) == 1 for titles in seen)
    assert len({titles[0] for titles in seen}) > 20
    assert not reader.is_alive()


KILLED = """
import os, signal, sys
from pathlib import Path
from data_lake.lake import Lake, Stage
from data_lake.object_store import ObjectStore
from tests.data_lake.conftest import items_table

upload, most = ObjectStore._upload, int(sys.argv[3])
done = 0

def killed(store, path, name):
    global done
    if done == most:
        os.kill(os.getpid(), signal.SIGKILL)
    done += 1
    upload(store, path, name)

ObjectStore._upload = killed
lake = Lake(sys.argv[1], "shop", cache=Path(sys.argv[2]))
with lake.lock():
    lake.run(Stage("ingest", 1, (), ("items",), {"number": 2}, lambda io: io.write("items", items_table("pan"))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("uploads", [0, 1])
def test_a_run_that_is_killed_while_it_uploads_leaves_the_artifact_before_it(
    here: Lake, there: Lake, items: Items, writes: Writes, url: str, tmp_path: Path, uploads: int
) -> None:
    with here.lock():
        here.run(writes("ingest", {"items": items("tea")}))
    command = [sys.executable, "-c", KILLED, url, str(tmp_path / "other"), str(uploads)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert there.read("items")["title"].to_pylist() == ["tea"]
    with there.lock():  # of a process of this machine that is dead
        there.run(writes("ingest", {"items": items("pan")}, settings={"number": 2}))
    assert here.read("items")["title"].to_pylist() == ["pan"]

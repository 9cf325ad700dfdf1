import threading
from pathlib import Path

from data_lake.files import put_folder, temporary


def folder_of(text: str, parent: Path) -> Path:
    folder = temporary(parent)
    folder.mkdir()
    (folder / "text").write_text(text)
    return folder


def test_a_folder_that_replaces_another_is_never_missing(tmp_path: Path) -> None:
    path, done, missing = tmp_path / "folder", threading.Event(), []

    def look() -> None:
        while not done.is_set():
            if not path.exists():
                missing.append(1)

    put_folder(folder_of("0", tmp_path), path)
    reader = threading.Thread(target=look)
    reader.start()
    for number in range(1, 100):
        put_folder(folder_of(str(number), tmp_path), path)
    done.set()
    reader.join()
    assert missing == []
    assert (path / "text").read_text() == "99"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]  # nothing is left of those before


def test_a_folder_is_replaced_where_the_file_system_cannot_exchange_two(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("data_lake.files._exchange", lambda one, other: False)
    for number in range(2):
        put_folder(folder_of(str(number), tmp_path), tmp_path / "folder")
    assert (tmp_path / "folder" / "text").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]

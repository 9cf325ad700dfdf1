"""How much memory a process takes, by Linux's /proc. Needs nothing but the standard library.

python -m benchmarks.memory    # of a process that does nothing: now, and at most
"""

from pathlib import Path


def resident_mib() -> float:
    """Return the memory that this process holds now, in MiB."""
    return _status_mib("VmRSS")


def peak_mib() -> float:
    """Return the most memory that this process has held, in MiB.

    `getrusage` would count what the process that started this one held at that time.
    """
    return _status_mib("VmHWM")


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def main() -> None:
    """Print the memory of this process, now and at most."""
    print(f"{resident_mib():.1f} MiB, at most {peak_mib():.1f} MiB")


if __name__ == "__main__":
    main()

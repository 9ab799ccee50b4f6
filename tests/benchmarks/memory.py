"""Peak memory of a process (Linux)."""

from pathlib import Path


def peak_mib() -> float:
    """MiB that this program has held at most so far.

    Not getrusage: after exec that still holds the peak of the parent.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    return int(kilobytes) / 1024

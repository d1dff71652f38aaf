"""Time and memory of the README's main job, rendering included: bounds are six minutes on two cores, and 4 GB in all.

    python benchmarks/main_job.py [ARGUMENTS OF run.py]

Memory is the sum over all processes of their proportional share (Linux: Pss), sampled once a second.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = Path(__file__).parents[1] / "experiments" / "run.py"


def main() -> int:
    """Run the job in a temporary folder and print what it took; returns its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, str(RUN), "--config", "renet_synthetic.yaml", "--folds", "all", *sys.argv[1:]]
        environment = os.environ | {"FACSUITE_CACHE": f"{folder}/cache"}
        started = time.monotonic()
        job = subprocess.Popen(line, cwd=folder, env=environment)
        peak, processes = 0, 0
        while job.poll() is None:
            family = descendants(job.pid)
            memory = sum(map(proportional_kilobytes, family))
            if memory > peak:
                peak, processes = memory, len(family)
            time.sleep(1)
        print(f"{time.monotonic() - started:.0f} s, at most {peak / 1e6:.2f} GB in {processes} processes, {machine()}")
        return job.returncode


def machine() -> str:
    """What it ran on."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def descendants(root: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    family = [root]
    for process in family:
        family += children.get(process, [])
    return family


def proportional_kilobytes(process: int) -> int:
    """Resident memory of a process, what it shares divided by those who share it."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it ended while we looked
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    sys.exit(main())

"""Processes that run run.py for a command: none outlives it, and each gets the time to end in good order."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Generic, TypeVar

from experiments.environment import tied

RUN = Path(__file__).with_name("run.py")
GRACE = 25.0  # seconds from SIGTERM to SIGKILL: a training stops after its batch, and SLURM waits for 30

Key = TypeVar("Key")
Place = Mapping[str, str]


class Pool(Generic[Key]):
    """Runs at the same time, one in each place. On leaving the context all that still run are stopped.

    Args:
        places: What each place adds to the environment, such as its GPU.

    Attributes:
        free: Places where nothing runs.
        running: What was started and has not been seen to end.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.free = list(places)
        self.running: dict[Key, tuple[subprocess.Popen[str], Place]] = {}

    def __enter__(self) -> "Pool[Key]":
        return self

    def __exit__(self, *_: object) -> None:
        stop([process for process, _ in self.running.values()])

    def start(self, key: Key, words: Sequence[str], log: IO[str] | None = None) -> None:
        """Start run.py in a free place, in a session of its own: Ctrl-C reaches this process, which stops it.

        Args:
            key: Name of the run.
            words: Its command line.
            log: Where its output goes; None = where that of this process goes.
        """
        place = self.free.pop(0)
        process = subprocess.Popen(
            [sys.executable, str(RUN), *words],
            env=tied() | dict(place),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=None if log is None else subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        self.running[key] = process, place

    def ended(self, seconds: float = 0.2) -> dict[Key, int]:
        """Exit codes of the runs that have ended, waiting a little for one; their places are free again."""
        deadline = time.monotonic() + seconds
        while True:
            codes = {key: process.poll() for key, (process, _) in self.running.items()}
            found = {key: code for key, code in codes.items() if code is not None}
            if found or time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        for key in found:
            self.free.append(self.running.pop(key)[1])
        return found


def stop(processes: Sequence[subprocess.Popen[str]], grace: float = GRACE) -> None:
    """End runs: asked first, killed with all that they started after ``grace`` seconds, or at once on Ctrl-C.

    Only the first process of a run is asked. It passes SIGTERM on, and a rank that gets it twice hangs in Lightning.
    """
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + grace
    try:
        for process in processes:
            process.wait(max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def gpus() -> list[str]:
    """The GPUs that this process may use, by index or UUID as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    import torch  # seconds, which what only starts runs need not wait

    return [str(i) for i in range(torch.cuda.device_count())]


def on_gpus(names: Sequence[str]) -> list[Place]:
    """A place on each GPU, in the numbering of nvidia-smi; without any, one on the CPU."""
    return [{"CUDA_VISIBLE_DEVICES": name, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} for name in names] or [{}]

"""What a SLURM job does. Loads nothing heavy: run.py, which it starts, does."""

import signal
from collections.abc import Sequence
from pathlib import Path

from submitit.helpers import DelayedSubmission

from experiments.processes import Pool, stop


class Job:
    """What a job of the array does: one trial. submitit pickles it and calls it; ``checkpoint`` is its convention too.

    Args:
        words: Command line of run.py.
        log: File of what it says.
    """

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self.words, self.log = list(words), log

    def __call__(self) -> None:
        """Run it; raises RuntimeError where it fails, which makes the job a failed one."""
        with self.log.open("a") as log, Pool[str]([{}]) as pool:
            self._pool = pool
            signal.signal(signal.SIGTERM, self._preempted)
            pool.start("trial", self.words, log)
            while not (codes := pool.ended(1)):
                pass
        if codes["trial"]:
            raise RuntimeError(f"exit code {codes['trial']}, see {self.log}")

    def checkpoint(self) -> DelayedSubmission:
        """Before the time limit: stop after the batch. What is returned goes back into the queue, and goes on."""
        stop([process for process, _ in self._pool.running.values()])
        return DelayedSubmission(Job(self.words, self.log))

    def _preempted(self, *_: object) -> None:
        raise SystemExit(143)  # the pool stops what runs

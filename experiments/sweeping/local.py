"""Trials on this machine: one on each free GPU, or in processes on the CPU."""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from datamodules.jobs import usable_cpus
from experiments.cli import ConfigError
from experiments.processes import Place, Pool, gpus, on_gpus
from experiments.sweeping.board import Board
from experiments.sweeping.plan import Trial

IN_USE = 0.05  # share of a GPU's memory from which somebody is taken to work there
LEAST_FREE = 200 << 20  # bytes of disk without which no trial is begun
PACE = 5.0  # seconds between two looks at trials that another process runs


def places(workers: int | None, chosen: Sequence[str] | None) -> list[Place]:
    """Where trials run.

    Args:
        workers: Number of processes on the CPU; None = a trial on each GPU, or one process where there is none.
        chosen: These GPUs, by index or UUID; None = all that nobody uses.

    Raises:
        ConfigError: Somebody uses every GPU.
    """
    if workers is None:
        visible = gpus() if chosen is None else list(chosen)
        taken = set() if chosen is not None else in_use() & set(visible)
        if visible and len(taken) == len(visible):
            raise ConfigError(f"somebody uses every GPU: {', '.join(visible)}", "wait, or say which: --gpus 0,1")
        if taken:
            print(f"left out, because somebody uses them: GPU {', '.join(sorted(taken))} (--gpus 0,1 says which)")
        return on_gpus([name for name in visible if name not in taken])
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, usable_cpus() // workers))}
    return [threads if workers > 1 else {}] * workers


def in_use() -> set[str]:
    """GPUs of which somebody holds memory, by index and by UUID; none where nvidia-smi does not say."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return set()
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]
    return {name for *names, used, total in rows if float(used) > IN_USE * float(total) for name in names}


def run(trials: Sequence[Trial], where: Sequence[Place], logs: Path, board: Board) -> None:
    """Run what is not done; what fails is left behind. On leaving, by Ctrl-C too, all that runs is stopped.

    Args:
        trials: Of one sweep.
        where: See `places`.
        logs: Folder for what each trial says.
        board: Is told what becomes of them.

    Raises:
        ConfigError: The disk is full.
    """
    waiting: list[Trial] = []
    elsewhere: list[Trial] = []
    for trial in trials:
        if trial.folder.state() == "done":
            board.set(trial, "done")
        else:
            waiting.append(trial)
    by_path = {trial.path: trial for trial in trials}
    looked = time.monotonic()
    pool: Pool[Path] = Pool(where)
    with pool, board:
        while waiting or elsewhere or pool.running:
            while waiting and pool.free:
                trial = waiting.pop(0)
                if trial.folder.busy():
                    board.set(trial, "elsewhere")
                    elsewhere.append(trial)
                    continue
                check_disk(logs)
                with log_of(trial, logs).open("a") as log:
                    pool.start(trial.path, trial.words, log)
                board.set(trial, "running")
            for path, code in pool.ended(0.5).items():
                trial = by_path[path]
                if code == 0:
                    board.set(trial, "done")
                elif trial.folder.busy():  # another sweep was quicker
                    board.set(trial, "elsewhere")
                    elsewhere.append(trial)
                else:
                    board.set(trial, "failed", code)
            if not pool.running:
                time.sleep(0.5)
            if time.monotonic() - looked > PACE:
                looked = time.monotonic()
                back = [trial for trial in elsewhere if not trial.folder.busy()]
                elsewhere = [trial for trial in elsewhere if trial not in back]
                for trial in back:
                    if trial.folder.state() == "done":
                        board.set(trial, "done")
                    else:
                        board.set(trial, "waiting")
                        waiting.append(trial)
            board.refresh()


def log_of(trial: Trial, logs: Path) -> Path:
    """File of what a trial says."""
    return logs / f"{trial.experiment}_{trial.part}.txt"


def check_disk(folder: Path) -> None:
    """Raises `ConfigError` where there is hardly room for a checkpoint."""
    if (free := shutil.disk_usage(folder).free) < LEAST_FREE:
        what = f"{folder}: {free >> 20} MB are left on the disk"
        raise ConfigError(what, "make room; the same command goes on from here")

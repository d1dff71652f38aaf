"""Trials as a SLURM job array, written and submitted by submitit.

submitit writes the script, submits the array, and puts a job back into the queue before its time limit ends it; SLURM
itself does so when a job is preempted or its node dies (``--requeue``). Lightning's SLURMEnvironment can requeue too,
but writes no array, and saves in mid-epoch, from where the order of frames would not go on exactly. So a trial need
only be a command that goes on from its last checkpoint, which run.py is.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit

from experiments.cli import ConfigError
from experiments.files import write_whole
from experiments.sweeping.job import Job
from experiments.sweeping.plan import Sweep, Trial

TIME = 240  # minutes of a job; a trial that takes longer goes on in the next one
REQUEUES = 1000  # at time limits
NOTICE = 180  # seconds before the time limit at which a job stops
NUMBERS = ("time", "nodes", "array_parallelism")


class Executor(submitit.SlurmExecutor):
    """submitit's, which here also shows what it would submit, with SLURM or without."""

    @classmethod
    def affinity(cls) -> int:
        """See the base class."""
        return 2

    def script(self, number: int) -> str:
        """What sbatch gets for so many trials."""
        self.parameters["map_count"] = number if number > 1 else None
        return self._make_submission_file_text(self._submitit_command_str, "")  # shown nowhere else before a submission


def executor(sweep: Sweep, folder: Path, options: Sequence[str]) -> Executor:
    """The writer of an array job.

    Args:
        sweep: Names it.
        folder: For what submitit writes.
        options: ``key=value`` of sbatch, such as ``partition=gpu``; ``time`` in minutes; a flag has no value.

    Raises:
        ConfigError: A number that is none.
    """
    given: dict[str, Any] = {"time": TIME}
    for option in options:
        key, equals, text = option.partition("=")
        key = key.lstrip("-").replace("-", "_")
        if key in NUMBERS and not text.isdigit():
            raise ConfigError(
                f"--slurm {option}: {key} is a number{' of minutes' * (key == 'time')}", f"--slurm {key}=60"
            )
        given[key] = (int(text) if key in NUMBERS else text) if equals else True
    known = Executor._valid_parameters()
    others = {key.replace("_", "-"): given.pop(key) for key in [*given] if key not in known}
    made = Executor(folder, max_num_timeout=REQUEUES)
    made.update_parameters(
        job_name=sweep.name,
        signal_delay_s=NOTICE,
        stderr_to_stdout=True,
        additional_parameters={"requeue": True, **others},
        **given,
    )
    return made


def submit(made: Executor, trials: Sequence[Trial], logs: Sequence[Path]) -> list[str]:
    """Submit an array of trials; returns their job numbers.

    Raises:
        ConfigError: There is no SLURM, or it refuses.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError("--backend slurm: there is no sbatch here", "log in to the cluster, or use --backend local")
    try:
        with made.batch():
            jobs = [made.submit(Job(trial.words, log.absolute())) for trial, log in zip(trials, logs, strict=True)]
    except submitit.core.utils.FailedJobError as error:
        said = str(error).strip().splitlines()[-1]
        raise ConfigError(f"sbatch refuses: {said}", "see --dry-run, and mend --slurm KEY=VALUE") from error
    record(made.folder, {str(trial.path): str(job.job_id) for trial, job in zip(trials, jobs, strict=True)})
    return [str(job.job_id) for job in jobs]


def record(folder: Path, jobs: dict[str, str]) -> None:
    """Remember which trial is which job."""
    path = folder / "jobs.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    write_whole(path, json.dumps(known | jobs, indent=1))


def queued(folder: Path) -> set[str]:
    """Folders of trials that an earlier submission has in the queue or running.

    Raises:
        ConfigError: SLURM does not answer.
    """
    path = folder / "jobs.json"
    if not path.exists() or shutil.which("squeue") is None:
        return set()
    asked = subprocess.run(["squeue", "--me", "-h", "-r", "-o", "%i"], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise ConfigError(f"squeue: {asked.stderr.strip()}", "see whether SLURM is up")
    present = set(asked.stdout.split())
    return {trial for trial, job in json.loads(path.read_text()).items() if job in present}

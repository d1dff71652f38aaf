"""Workers import the job's module afresh, so the jobs here live in a small module beside a small program."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datamodules.jobs import run_jobs

JOBS = """
import os, signal, time

def write(folder, memory, item, tick):
    (folder / item).touch()
    time.sleep(0.3 * (item == "a"))  # done last, first in the list
    tick(1)
    memory.append(item)
    return item.upper(), len(memory)

def fail(folder, memory, item, tick):
    if item == "a":
        raise ValueError("a is bad")
    for _ in range(6000):
        time.sleep(0.01)
        tick(1)

def wait(folder, memory, item, tick):
    (folder / item).touch()
    time.sleep(60)

def die(folder, memory, item, tick):
    os.kill(os.getpid(), signal.SIGKILL)
"""

PROGRAM = """
import functools, os, pathlib, sys
print("program runs", file=sys.stderr)
import jobs
from datamodules.jobs import run_jobs
folder = pathlib.Path(sys.argv[2])
job = functools.partial(getattr(jobs, sys.argv[1]), folder, [])
try:
    print(run_jobs(job, ["a", "b", "c"], total=3, workers=2, progress=True, description="work"))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def run(folder: Path, job: str) -> tuple[str, str]:
    command = [sys.executable, str(folder / "program.py"), job, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return ended.stdout, ended.stderr


def test_workers_never_run_the_program_again(folder: Path) -> None:
    """The program has no main guard, and may have loaded torch: workers must not import it."""
    output, progress = run(folder, "write")
    assert progress.count("program runs") == 1
    assert "3/3" in progress
    names, met = zip(*ast.literal_eval(output), strict=True)
    assert names == ("A", "B", "C")  # in the order of the items, though the first is done last
    assert max(met) >= 2  # a worker that gets two items keeps what the job has loaded
    assert all((folder / item).exists() for item in "abc")


def test_without_workers_the_results_are_the_same() -> None:
    results = run_jobs(lambda item, tick: item.upper(), ["a", "b"], total=2, workers=0, progress=False, description="")
    assert results == ["A", "B"]


def test_a_failure_stops_the_others(folder: Path) -> None:
    start = time.monotonic()
    assert run(folder, "fail")[0] == "ValueError a is bad\n"
    assert time.monotonic() - start < 30  # the other job alone takes a minute


def test_a_killed_worker_is_an_error_not_a_hang(folder: Path) -> None:
    assert run(folder, "die")[0] == "DataError a worker process was killed (out of memory?)\n"


def test_workers_end_with_a_killed_program(folder: Path) -> None:
    """Or they would go on writing beside the next attempt."""
    command = [sys.executable, str(folder / "program.py"), "wait", str(folder)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not ((folder / "a").exists() and (folder / "b").exists()) and time.monotonic() < deadline:
        time.sleep(0.01)
    program.kill()
    program.communicate(timeout=30)  # returns when the last holder of the pipe is gone; workers hold it too

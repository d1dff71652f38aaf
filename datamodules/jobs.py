"""Independent pieces of long work, spread over processes, with one progress bar and a clean end."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

import cv2
from tqdm import tqdm

from datamodules.errors import DataError

Tick = Callable[[int], object]
Result = TypeVar("Result")


def usable_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    job: Callable[[Any, Tick], Result],
    items: Sequence[Any],
    *,
    total: int,
    done: int = 0,
    workers: int,
    progress: bool,
    description: str,
) -> list[Result]:
    """Call ``job(item, tick)`` for every item; the first failure, or Ctrl-C, stops the rest within a frame.

    Args:
        job: Function of an importable module, or a partial of one; it calls ``tick(n)`` after every n frames and
            returns what can be pickled.
        items: What there is to do; an item's outcome must not depend on the others.
        total: Frames of the whole work.
        done: How many of them an earlier attempt did.
        workers: Processes to spread over; 0 works in this one.
        progress: Whether to show a bar.
        description: Text before the bar.

    Returns:
        What the jobs returned, in the order of ``items``.

    Raises:
        DataError: As raised by a job, or when a worker was killed.
    """
    pace = 0.1 if sys.stderr.isatty() else 10  # seconds; a log file keeps every line that a terminal overwrites
    with tqdm(total=total, initial=done, desc=description, unit="frame", disable=not progress, mininterval=pace) as bar:
        if workers == 0:
            return [job(item, bar.update) for item in items]
        # Spawned, not forked: a caller may hold threads (torch, OpenCV) that do not survive a fork.
        context = multiprocessing.get_context("spawn")
        ticks, stop = context.Value("q", done), context.Event()
        follower = threading.Thread(target=_follow, args=(bar, ticks, finished := threading.Event()), daemon=True)
        follower.start()
        try:
            with ProcessPoolExecutor(min(workers, len(items)) or 1, context, _begin, (job, ticks, stop)) as pool:
                try:
                    with _without_main():
                        futures = [pool.submit(_call, item) for item in items]
                    for future in as_completed(futures):
                        future.result()
                    return [future.result() for future in futures]
                except BaseException:
                    stop.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process was killed (out of memory?)",
                "start again with fewer --workers; finished work is kept",
            ) from error
        finally:
            finished.set()
            follower.join()


# Of a worker process; _begin sets them. The job is sent once: what it loads serves all items that the worker gets.
_job: Callable[[Any, Tick], Any]
_tick: Tick


@contextmanager
def _without_main() -> Iterator[None]:
    """Start workers that import the job's module alone: the calling program may have loaded torch, seconds and RAM."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class _StoppedError(Exception):
    """Raised in a worker whose work is no longer wanted."""


def _begin(job: Callable[[Any, Tick], Any], ticks: Any, stop: Any) -> None:
    """Set up a worker process."""
    global _job, _tick

    def tick(frames: int) -> None:
        with ticks.get_lock():
            ticks.value += frames
        if stop.is_set():
            raise _StoppedError

    _job, _tick = job, tick
    cv2.setNumThreads(0)  # processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    # A killed parent cannot stop its workers: they would go on writing beside the next attempt.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(item: Any) -> Any:
    return _job(item, _tick)


def _follow(bar: "tqdm[Any]", ticks: Any, finished: threading.Event) -> None:
    while True:
        last = finished.wait(0.2)
        bar.update(ticks.value - bar.n)
        if last:
            return

"""A twin of BP4D+: rendered faces in the archive's layout, with its irregularities (`datamodules.raw.bp4d_plus`)."""

import zipfile
from contextlib import ExitStack
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path

from datamodules.jobs import Tick
from datamodules.known import load_known
from datamodules.synth.bp4d import CODED, FPS, write_intensities, write_occurrence, write_sequence
from datamodules.synth.clips import Clip
from datamodules.synth.twin import TruthRow, check_range, cut_file, write_twin

_TASKS = ("T1", "T6", "T7", "T8")
_NAMES = load_known("bp4d_plus").subjects
# Women and men in turn, as long as there are both.
_ORDER = [
    name
    for name in chain.from_iterable(zip_longest(*([n for n in _NAMES if n[0] == sex] for sex in "FM")))
    if name is not None
]
_STARTS = (1, 301, 26)  # first coded frame, sequence by sequence


def write_bp4d_plus(
    out: Path,
    subjects: int = 6,
    tasks: int = 2,
    frames: int = 20,
    seed: int = 0,
    size: int = 256,
    with_faults: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> Path:
    """Render a twin of BP4D+: zips and folders of pictures, occurrence of 34 AUs, intensity of five.

    The same arguments give the same bytes, whatever the number of workers. Pictures count from 0, label rows from 1.
    Every other subject, from the first, is a zip whose entries are in no order and have names without zeros; the others
    are unpacked. The first sequence has an unknown occurrence and an unknown intensity (9) and a labelled frame without
    picture. The first subject has a task that is not coded, and a folder without data bears the name of a task T11.

    Args:
        out: Folder to make; must not exist.
        subjects: How many of the archive's 140 subjects, women and men in turn.
        tasks: How many of the coded tasks T1, T6, T7 and T8, from the first.
        frames: Labelled frames of each sequence.
        seed: Seed of faces and behaviour.
        size: Side of the square pictures in pixels.
        with_faults: Whether to cut the last label file in the middle and to empty the last picture.
        workers: Processes to spread the subjects over; 0 works in this one.
        progress: Whether to show a progress bar.

    Returns:
        ``out``.

    Raises:
        DataError: When ``out`` exists or a number is out of range.
    """
    check_settings(subjects, tasks, frames, seed, size)
    return write_twin(
        out,
        list(enumerate(_ORDER[:subjects])),
        partial(_write_subject, tasks, frames, seed, size, subjects - 1 if with_faults else None),
        total=subjects * tasks * frames,
        workers=workers,
        progress=progress,
        description="render bp4d_plus",
    )


def check_settings(subjects: int, tasks: int, frames: int, seed: int, size: int) -> None:
    """Raise `DataError` for numbers that `write_bp4d_plus` cannot take."""
    check_range("bp4d_plus", "subjects", subjects, 1, len(_ORDER))
    check_range("bp4d_plus", "tasks", tasks, 1, len(_TASKS))
    check_range("bp4d_plus", "frames", frames, 4, 5000)
    check_range("bp4d_plus", "seed", seed, 0, 2**32 - 1)
    check_range("bp4d_plus", "size", size, 32, 2048)


def _write_subject(
    tasks: int,
    frames: int,
    seed: int,
    size: int,
    faulty: int | None,
    root: Path,
    piece: tuple[int, str],
    tick: Tick,
) -> list[TruthRow]:
    place, subject = piece
    number = 2000 + 500 * (subject[0] == "M") + int(subject[1:])  # no face of another dataset's
    clip = Clip(number, seed=seed, size=size, fps=FPS)
    folder = root / "2D+3D"
    folder.mkdir(exist_ok=True)
    truth = []
    with ExitStack() as stack:
        packed = stack.enter_context(zipfile.ZipFile(folder / f"{subject}.zip", "w")) if place % 2 == 0 else None

        def save(task: str, digits: int, empty: int | None, n: int, data: bytes) -> None:
            data = b"" if n == empty else data
            if packed is not None:
                packed.writestr(zipfile.ZipInfo(f"{subject}/{task}/{n}.jpg"), data)  # its time is 1980, always
            else:
                (folder / subject / task).mkdir(parents=True, exist_ok=True)
                (folder / subject / task / f"{n:0{digits}d}.jpg").write_bytes(data)

        if place == 0:
            write_sequence(
                clip,
                subject,
                "T2",
                first=1,
                frames=1,
                offset=-1,
                missing=None,
                save=partial(save, "T2", 4, None),
                tick=lambda n: None,
            )
            (root / "Physiology" / "F042" / "T11").mkdir(parents=True)
        for k, task in enumerate(_TASKS[:tasks]):
            sequence = place * tasks + k
            first = _STARTS[sequence % len(_STARTS)]
            last = place == faulty and k == tasks - 1
            rows = write_sequence(
                clip,
                subject,
                task,
                first=first,
                frames=frames,
                offset=-1,
                missing=first + frames // 2 if sequence == 0 else None,
                save=partial(save, task, 4 if k % 2 == 0 else 3, first + frames - 2 if last else None),
                tick=tick,
            )
            if sequence == 0:
                rows[1].labels["AU10"] = rows[2].labels["AU06_intensity"] = -1
            labels = root / "AUCoding" / "AU_OCC" / f"{subject}_{task}.csv"
            write_occurrence(labels, CODED, rows)
            write_intensities(root / "AUCoding" / "AU_INT", rows)
            if last:
                cut_file(labels)
            truth += rows
    return truth

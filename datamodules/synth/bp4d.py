"""A twin of BP4D: rendered faces in the archive's raw layout, with its irregularities (`datamodules.raw.bp4d`)."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.facs import BP4D_5, au_name
from datamodules.jobs import Tick
from datamodules.synth.clips import Clip, SynthFrame
from datamodules.synth.twin import TruthRow, check_range, cut_file, encode_jpeg, write_twin

FPS = 25
#: AUs that BP4D and BP4D+ code, whether the renderer shows them or not; 3, 8, 21, 25 and 26 are not among them.
CODED = (1, 2, 4, 5, 6, 7, *range(9, 21), 22, 23, 24, *range(27, 40))
#: Frames of a subject's label process from the first of one task to the first of the next.
TASK_FRAMES = 10_000

# Any number of them, from the first, has the three parts of the folds and both sexes as evenly as can be.
_ORDER = (
    *("F001", "M011", "F007", "M007", "F003", "M006", "F018", "M010", "F015", "M004", "F005", "M009", "F008", "M002"),
    *("F006", "M012", "F022", "M003", "F002", "M018", "F019", "M001", "F013", "M015", "F010", "M017", "F012", "M014"),
    *("F020", "F004", "F009", "M016", "F021", "M008", "F011", "F017", "F016", "M013", "F014", "F023", "M005"),
)
_COLUMNS = np.arange(1, 47)  # this copy of the archive has a column for every AU, coded or not
# First coded frame and digits of the file names, sequence by sequence.
_STARTS = ((2440, 4), (1, 3), (721, 4), (95, 3))


def write_bp4d(
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
    """Render a twin of BP4D: pictures of up to eight tasks, occurrence of 34 AUs, intensity of five.

    The same arguments give the same bytes, whatever the number of workers. The first sequence has an unknown occurrence
    (9), an unknown and a missing intensity, a labelled frame without picture and files of 3D models; it starts at frame
    2440. The second has three digits in its file names and another order of columns. Beside the labelled pictures lie
    some that are not labelled.

    Args:
        out: Folder to make; must not exist.
        subjects: How many of the archive's 41 subjects, in an order that spreads them over sexes and folds.
        tasks: How many of the tasks T1 to T8, from the first.
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
        description="render bp4d",
    )


def check_settings(subjects: int, tasks: int, frames: int, seed: int, size: int) -> None:
    """Raise `DataError` for numbers that `write_bp4d` cannot take."""
    check_range("bp4d", "subjects", subjects, 1, len(_ORDER))
    check_range("bp4d", "tasks", tasks, 1, 8)
    check_range("bp4d", "frames", frames, 4, 5000)
    check_range("bp4d", "seed", seed, 0, 2**32 - 1)
    check_range("bp4d", "size", size, 32, 2048)


def write_sequence(
    clip: Clip,
    subject: str,
    task: str,
    *,
    first: int,
    frames: int,
    offset: int,
    missing: int | None,
    save: Callable[[int, bytes], object],
    tick: Tick,
) -> list[TruthRow]:
    """Pictures of one sequence, from the last to the first, with one before and one after those that are labelled.

    Args:
        clip: Who is seen. Picture n of task k is frame ``k * TASK_FRAMES + n`` of it.
        subject: Name of the subject.
        task: ``T1``, ...
        first: Number of the first labelled frame in the label files.
        frames: How many are labelled.
        offset: Number of a picture minus number of its frame in the label files, where frames count from 1.
        missing: Labelled frame that has no picture.
        save: Takes a picture's number and its JPEG file.
        tick: Called for every labelled frame.

    Returns:
        Truth of the labelled frames in time order.
    """
    rows = []
    for number in range(first + frames, max(first - 1, 1) - 1, -1):
        frame = clip.frame(int(task[1:]) * TASK_FRAMES + number + offset)
        if number != missing:
            save(number + offset, encode_jpeg(frame.image))
        if first <= number < first + frames:
            points = None if number == missing else frame.landmarks
            rows.append(TruthRow(subject, task, number, points, number != missing, _labels(frame)))
            tick(1)
    return rows[::-1]


def write_occurrence(path: Path, columns: Sequence[int], rows: Sequence[TruthRow]) -> None:
    """An occurrence file with the columns in the given order; 9 for what is unknown or not coded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = ((_code(row.labels.get(au_name(au), -1)) for au in columns) for row in rows)
    lines = [",".join(map(str, (row.frame, *codes))) for row, codes in zip(rows, values, strict=True)]
    path.write_text("\n".join([",".join(map(str, (0, *columns))), *lines]) + "\n")


def write_intensities(folder: Path, rows: Sequence[TruthRow], absent: tuple[int, int] | None = None) -> None:
    """The intensity files of a sequence; the row of the AU and frame ``absent`` is left out."""
    for au in BP4D_5:
        path = folder / au_name(au) / f"{rows[0].subject}_{rows[0].sequence}_{au_name(au)}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        column = f"{au_name(au)}_intensity"
        lines = [f"{row.frame},{_code(row.labels[column])}\n" for row in rows if (au, row.frame) != absent]
        path.write_text("".join(lines))


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
    number = 1000 + 500 * (subject[0] == "M") + int(subject[1:])  # no face of another dataset's
    clip = Clip(number, seed=seed, size=size, fps=FPS)
    truth = []
    for k in range(tasks):
        task, sequence = f"T{k + 1}", place * tasks + k
        folder = root / "Sequences(2D+3D)" / subject / task
        folder.mkdir(parents=True)
        first, digits = _STARTS[sequence % len(_STARTS)]
        rows = write_sequence(
            clip,
            subject,
            task,
            first=first,
            frames=frames,
            offset=0,
            missing=first + frames // 2 if sequence == 0 else None,
            save=partial(_save, folder, digits),
            tick=tick,
        )
        columns, absent = _COLUMNS, None
        if sequence == 0:
            rows[1].labels["AU10"] = -1
            rows[2].labels["AU06_intensity"] = rows[1].labels["AU12_intensity"] = -1
            absent = (12, first + 1)
            for name in (f"{first:04d}.obj", f"{first:04d}.mtl"):
                (folder / name).write_text("# 3D model\n")
        if sequence == 1:
            columns = np.random.default_rng(1).permutation(_COLUMNS)
        labels = root / "AUCoding" / "AU_OCC" / f"{subject}_{task}.csv"
        write_occurrence(labels, columns.tolist(), rows)
        write_intensities(root / "AU Intensity Codes3.0", rows, absent)
        if place == faulty and k == tasks - 1:
            cut_file(labels)
            _save(folder, digits, first + frames - 1, b"")
        truth += rows
    return truth


def _save(folder: Path, digits: int, number: int, data: bytes) -> None:
    (folder / f"{number:0{digits}d}.jpg").write_bytes(data)


def _labels(frame: SynthFrame) -> dict[str, int]:
    occurrence = {au_name(au): int(frame.intensity.get(au, 0) >= 1) for au in CODED}
    return occurrence | {f"{au_name(au)}_intensity": frame.intensity[au] for au in BP4D_5}


def _code(label: int) -> int:
    return 9 if label == -1 else label

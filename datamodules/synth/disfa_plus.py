"""A twin of DISFA+: rendered faces in the archive's layout, with its irregularities (`datamodules.raw.disfa_plus`)."""

from functools import partial
from pathlib import Path

from datamodules.facs import DISFA_12, au_name
from datamodules.jobs import Tick
from datamodules.synth.clips import Clip
from datamodules.synth.disfa import FPS
from datamodules.synth.twin import TruthRow, check_range, cut_file, encode_jpeg, write_twin

#: Frames of a subject's label process from the first of one session to the first of the next; DISFA's twin has those
#: before the first session.
SESSION_FRAMES = 10_000

# Any number of them, from the first, has the three parts of DISFA's folds as evenly as can be.
_ORDER = ("SN001", "SN013", "SN003", "SN010", "SN025", "SN009", "SN007", "SN027", "SN004")
# As the archive names them.
_SESSIONS = ("A1_AU1_TrailNo_1", "A3_AU1_2_TrailNo_2", "A5_AU1_4b_TrailNo_1", "A7_AU5z_TrailNo_2", "B2_AU6_TrailNo_2")


def write_disfa_plus(
    out: Path,
    subjects: int = 6,
    sessions: int = 2,
    frames: int = 20,
    seed: int = 0,
    size: int = 256,
    with_faults: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> Path:
    """Render a twin of DISFA+: pictures of some sessions, intensities of 12 AUs, persons of DISFA's twin.

    The same arguments give the same bytes, whatever the number of workers. A subject has the face that it has in a twin
    of DISFA with the same seed. What is posed in a session does not follow its name, and the text of the label files'
    header is invented. The first session has a labelled frame without picture, every session a picture without labels.

    Args:
        out: Folder to make; must not exist.
        subjects: How many of the archive's 9 subjects, in an order that spreads them over DISFA's folds.
        sessions: How many sessions of each.
        frames: Labelled frames of each session.
        seed: Seed of faces and behaviour.
        size: Side of the square pictures in pixels.
        with_faults: Whether to cut the last session's label file of AU 12 in the middle and to empty its first picture.
        workers: Processes to spread the subjects over; 0 works in this one.
        progress: Whether to show a progress bar.

    Returns:
        ``out``.

    Raises:
        DataError: When ``out`` exists or a number is out of range.
    """
    check_settings(subjects, sessions, frames, seed, size)
    return write_twin(
        out,
        list(enumerate(_ORDER[:subjects])),
        partial(_write_subject, sessions, frames, seed, size, subjects - 1 if with_faults else None),
        total=subjects * sessions * frames,
        workers=workers,
        progress=progress,
        description="render disfa_plus",
    )


def check_settings(subjects: int, sessions: int, frames: int, seed: int, size: int) -> None:
    """Raise `DataError` for numbers that `write_disfa_plus` cannot take."""
    check_range("disfa_plus", "subjects", subjects, 1, len(_ORDER))
    check_range("disfa_plus", "sessions", sessions, 1, len(_SESSIONS))
    check_range("disfa_plus", "frames", frames, 2, 999)  # file names have three digits
    check_range("disfa_plus", "seed", seed, 0, 2**32 - 1)
    check_range("disfa_plus", "size", size, 32, 2048)


def _write_subject(
    sessions: int,
    frames: int,
    seed: int,
    size: int,
    faulty: int | None,
    root: Path,
    piece: tuple[int, str],
    tick: Tick,
) -> list[TruthRow]:
    place, subject = piece
    clip = Clip(int(subject[2:]), seed=seed, size=size, fps=FPS)
    truth: list[TruthRow] = []
    for k, session in enumerate(_SESSIONS[:sessions]):
        images, labels = root / "Images" / subject / session, root / "Labels" / subject / session
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        missing = frames // 2 if (place, k) == (0, 0) else None
        rows = []
        for number in range(frames + 1):  # the last has no labels
            frame = clip.frame((k + 1) * SESSION_FRAMES + number)
            if number != missing:
                (images / f"{number:03d}.jpg").write_bytes(encode_jpeg(frame.image))
            if number < frames:
                levels = {f"{au_name(au)}_intensity": frame.intensity[au] for au in DISFA_12}
                points = None if number == missing else frame.landmarks
                rows.append(TruthRow(subject, session, number, points, number != missing, levels))
                tick(1)
        (images / "Thumbs.db").touch()
        for au in DISFA_12:
            column = f"{au_name(au)}_intensity"
            lines = [f"{subject} {session}", f"Image       AU{au}", *(_line(row, column) for row in rows)]
            (labels / f"AU{au}.txt").write_text("\n".join(lines) + "\n")
        if place == faulty and k == sessions - 1:
            cut_file(labels / "AU12.txt")
            (images / "000.jpg").write_bytes(b"")
        truth += rows
    return truth


def _line(row: TruthRow, column: str) -> str:
    return f"{row.frame:03d}.jpg     {row.labels[column]}"

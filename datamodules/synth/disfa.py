"""A twin of DISFA: rendered faces in the archive's raw layout, with its irregularities (`datamodules.raw.disfa`)."""

import io
from functools import partial
from pathlib import Path
from typing import Literal

import av
import numpy as np
import scipy.io

from datamodules.facs import DISFA_12, au_name
from datamodules.jobs import Tick
from datamodules.known import load_known
from datamodules.raw.disfa import POINTS_66
from datamodules.synth.clips import render_clip
from datamodules.synth.twin import TruthRow, check_range, cut_file, write_twin

FPS = 20
SUBJECTS = load_known("disfa").subjects
#: Subjects whose landmark files count from 1. The archive has both namings; SN031's missing file is known as l03631.
FROM_1 = ("SN005", "SN029", "SN031")

_FOLDER = {
    "left": "Videos_LeftCamera",
    "right": "Video_RightCamera",
}  # plural and singular, comp and Comp: the archive's
_VIDEO = {"left": "LeftVideo{}_comp.avi", "right": "RightVideo{}_Comp.avi"}


def write_disfa(
    out: Path,
    subjects: int = len(SUBJECTS),
    frames: int = 120,
    seed: int = 0,
    size: int = 256,
    camera: Literal["left", "right"] = "left",
    with_faults: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> Path:
    """Render a twin of DISFA: one video a subject, landmarks, intensities of 12 AUs.

    The same arguments give the same bytes, whatever the number of workers. SN010 has one label row less than its video
    has frames, and one landmark file of SN031 is missing. Both cameras show the same pictures.

    Args:
        out: Folder to make; must not exist.
        subjects: How many of the archive's 27 subjects, from the first.
        frames: Frames of each video.
        seed: Seed of faces and behaviour.
        size: Side of the square videos in pixels.
        camera: Whose folder and file names to use.
        with_faults: Whether to cut the last subject's label file of AU 12 in the middle.
        workers: Processes to spread the subjects over; 0 works in this one.
        progress: Whether to show a progress bar.

    Returns:
        ``out``.

    Raises:
        DataError: When ``out`` exists or a number is out of range.
    """
    check_settings(subjects, frames, seed, size)
    faulty = SUBJECTS[subjects - 1] if with_faults else None
    return write_twin(
        out,
        SUBJECTS[:subjects],
        partial(_write_subject, frames, seed, size, camera, faulty),
        total=subjects * frames,
        workers=workers,
        progress=progress,
        description="render disfa",
    )


def check_settings(subjects: int, frames: int, seed: int, size: int) -> None:
    """Raise `DataError` for numbers that `write_disfa` cannot take."""
    check_range("disfa", "subjects", subjects, 1, len(SUBJECTS))
    check_range("disfa", "frames", frames, 2, 9999)  # file names have four digits
    check_range("disfa", "seed", seed, 0, 2**32 - 1)
    check_range("disfa", "size", size, 32, 2048)


def _write_subject(
    frames: int,
    seed: int,
    size: int,
    camera: Literal["left", "right"],
    faulty: str | None,
    root: Path,
    subject: str,
    tick: Tick,
) -> list[TruthRow]:
    (root / _FOLDER[camera]).mkdir(exist_ok=True)
    labels = root / "ActionUnit_Labels" / subject
    points = root / "Landmark_Points" / subject / "tmp_frame_lm"
    labels.mkdir(parents=True)
    points.mkdir(parents=True)
    truth: list[TruthRow] = []
    video = root / _FOLDER[camera] / _VIDEO[camera].format(subject)
    with av.open(str(video), "w", options={"fflags": "+bitexact"}) as container:  # no library version in the file
        quality = {
            "flags": "+bitexact+qscale",
            "global_quality": str(2 * 118),
        }  # quantiser 2, the finest usual; 118: FFmpeg's unit
        stream = container.add_stream("mjpeg", rate=FPS, options=quality)
        stream.width = stream.height = size
        stream.pix_fmt = "yuvj420p"
        for number, frame in enumerate(render_clip(int(subject[2:]), frames, seed=seed, size=size, fps=FPS)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.image, format="rgb24")))
            levels = {f"{au_name(au)}_intensity": frame.intensity[au] for au in DISFA_12}
            name = f"l{number + 1:05d}_lm.mat" if subject in FROM_1 else f"{subject}_{number:04d}_lm.mat"
            if not (subject == "SN031" and number == 3 * frames // 4):
                (points / name).write_bytes(_mat(frame.landmarks[POINTS_66]))
            truth.append(TruthRow(subject, camera, number, frame.landmarks, True, levels))
            tick(1)
        container.mux(stream.encode())
    if subject == "SN010":
        truth.pop()
    for au in DISFA_12:
        column = f"{au_name(au)}_intensity"
        rows = "".join(f"{row.frame + 1},{row.labels[column]}\n" for row in truth)
        (labels / f"{subject}_au{au}.txt").write_text(rows)
    if subject == faulty:
        cut_file(labels / f"{subject}_au12.txt")
    return truth


def _mat(points: np.ndarray) -> bytes:
    """A MATLAB file with ``pts``."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"pts": points.astype(np.float32)})
    return b"MATLAB 5.0 MAT-file".ljust(116) + buffer.getvalue()[116:]  # its header text carries the time of day

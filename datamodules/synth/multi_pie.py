"""A twin of Multi-PIE: rendered faces in the archive's raw layout (`datamodules.raw.multi_pie`).

Cameras turn the head by their yaw, flashes light it from their place, and what one recording shows at once is the same
in all of them. Smile is EMFACS happiness, Surprise and Disgust are EMFACS; Squint (AU6 and 7) and Scream (AU4, 7, 25
and 26) are not in that table (`datamodules.synth.emfacs`).

Where the flashes were is assumed: 01 to 13 at the cameras from left to right, so that 07 is frontal, 14 to 18 above
them; 00 and 19 have the room's light alone.

Traps: ids have gaps; who came to which session differs; one image is missing; ``highres`` and strangers lie beside.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from datamodules.errors import DataError
from datamodules.facs import MULTI_PIE_EXPRESSIONS
from datamodules.jobs import Tick
from datamodules.raw.multi_pie import AMBIENT_AND_FRONTAL, CAMERAS, HALF_FRONTAL, RECORDINGS, SHOTS
from datamodules.synth.clips import Clip, SynthFrame
from datamodules.synth.emfacs import draw_levels
from datamodules.synth.scene import backdrop
from datamodules.synth.streams import Purpose, stream
from datamodules.synth.twin import TruthRow, check_range, write_twin

#: 337 ids up to 346, as in the archive; which nine it lacks is not public.
IDS = [number for number in range(1, 347) if number not in (3, 9, 14, 27, 51, 102, 163, 240, 311)]
#: Who comes to which sessions, in turn.
ATTENDANCE = ((1, 2, 3, 4), (1, 3), (2, 3, 4), (1, 2), (1, 4), (2, 4), (1, 2, 3, 4), (3,), (1, 2, 4))
_MISSING = 1  # of the subjects: lacks one image
_FAULTY = 0


class _Shot(NamedTuple):
    """One image of a subject."""

    session: int
    recording: int
    camera: str
    shot: int

    @property
    def sequence(self) -> str:
        return f"{self.session:02d}_{self.recording:02d}_{self.camera}_{self.shot:02d}"

    def path(self, subject: str) -> Path:
        folder = Path("data", f"session{self.session:02d}", "multiview", subject, f"{self.recording:02d}", self.camera)
        session, recording, camera = f"{self.session:02d}", f"{self.recording:02d}", self.camera.replace("_", "")
        return folder / f"{subject}_{session}_{recording}_{camera}_{self.shot:02d}.png"


def write_multi_pie(
    out: Path,
    subjects: int = 6,
    seed: int = 0,
    size: int = 160,
    cameras: list[str] = HALF_FRONTAL,
    shots: list[int] = AMBIENT_AND_FRONTAL,
    with_faults: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> Path:
    """Render a twin of Multi-PIE: persons seen from several sides, under several flashes.

    Args:
        out: Folder to make; must not exist.
        subjects: How many; the first four show every expression.
        seed: Seed of faces and expressions.
        size: Height of the pictures in pixels; they are a third wider.
        cameras: Cameras to render, of those within 45 degrees; by default all seven.
        shots: Shots to render, 0 to 19; by default the one without flash and the one with the frontal flash.
        with_faults: Move an image of the first subject into another camera's folder, and empty one.
        workers: Processes to spread the subjects over; 0 works in this one.
        progress: Whether to show a progress bar.

    Returns:
        ``out``.

    Raises:
        DataError: When ``out`` exists or a number is out of range.
    """
    check_settings(subjects, seed, size, cameras, shots)
    return write_twin(
        out,
        list(range(subjects)),
        partial(_write_subject, subjects, seed, size, cameras, shots, with_faults),
        total=sum(1 for k in range(subjects) for _ in _shots(k, cameras, shots)),
        workers=workers,
        progress=progress,
        description="render multi_pie",
    )


def check_settings(subjects: int, seed: int, size: int, cameras: list[str], shots: list[int]) -> None:
    """Raise `DataError` for settings that `write_multi_pie` cannot take."""
    check_range("multi_pie", "subjects", subjects, 1, len(IDS))
    check_range("multi_pie", "seed", seed, 0, 2**32 - 1)
    check_range("multi_pie", "size", size, 32, 2048)
    for key, values, known in (("cameras", cameras, HALF_FRONTAL), ("shots", shots, list(SHOTS))):
        if not values or not set(values) <= set(known):
            raise DataError(
                f"multi_pie: {key}={values} cannot be rendered", f"choose from {', '.join(map(str, known))}"
            )


def render_shot(seed: int, subject: int, session: int, recording: int, camera: str, shot: int, size: int) -> SynthFrame:
    """What the camera sees of the subject (by its id) at that moment; intensities are those of the expression.

    Args:
        seed: Seed of the twin.
        subject: Id of the subject.
        session: 1 to 4.
        recording: 1 to 3.
        camera: Folder name of a camera within 45 degrees.
        shot: 0 to 19.
        size: Height of the picture.
    """
    moment = stream(seed, subject, Purpose.SEGMENT, 10 * session + recording)
    levels = draw_levels(RECORDINGS[session, recording], moment)
    jitter = moment.normal(0, (2.0, 2.0, 1.5))
    yaw = CAMERAS[camera]
    azimuth, elevation = _flash(shot)
    light = (0.0, 1.0, 0.3, 0.85) if azimuth is None else (azimuth + np.radians(yaw), elevation, 0.9, 0.35)
    return _clip(seed, subject, size).still(
        levels,
        pose=(float(np.clip(yaw + jitter[0], -45, 45)), float(jitter[1]), float(jitter[2])),
        light=light,
        background=_wall(camera, size),
        index=((session * 10 + recording) * 20 + shot) * 20 + HALF_FRONTAL.index(camera),
    )


@lru_cache(maxsize=1)
def _clip(seed: int, subject: int, size: int) -> Clip:
    return Clip(subject, seed=seed, size=size)


@lru_cache(maxsize=len(HALF_FRONTAL))
def _wall(camera: str, size: int) -> np.ndarray:
    """The laboratory behind the subject as a camera sees it, the same in every twin."""
    return backdrop(stream(0, HALF_FRONTAL.index(camera), Purpose.SCENE), size, size * 4 // 3, things=2)


def _flash(shot: int) -> tuple[float | None, float]:
    """Azimuth (to the right, seen from the frontal camera) and elevation in radians; None without flash."""
    if shot in (0, 19):
        return None, 0.0
    if shot <= 13:
        return np.radians(15.0 * (shot - 7)), 0.15
    return np.radians(30.0 * (shot - 16)), 0.8


def _shots(k: int, cameras: list[str], shots: list[int]) -> Iterator[_Shot]:
    for session, recording in RECORDINGS:
        if session in ATTENDANCE[k % len(ATTENDANCE)]:
            for camera in sorted(set(cameras)):
                yield from (_Shot(session, recording, camera, shot) for shot in sorted(set(shots)))


def _write_subject(
    subjects: int,
    seed: int,
    size: int,
    cameras: list[str],
    shots: list[int],
    with_faults: bool,
    root: Path,
    k: int,
    tick: Tick,
) -> list[TruthRow]:
    number, subject = IDS[k], f"{IDS[k]:03d}"
    if k == 0:
        _write_extras(root, subjects)
    rows = []
    images = list(_shots(k, cameras, shots))
    missing = images[3] if k == _MISSING else None
    for shot in images:
        frame = render_shot(seed, number, *shot, size)
        path = root / shot.path(subject)
        path.parent.mkdir(parents=True, exist_ok=True)
        if shot != missing:
            path.write_bytes(_png(frame.image))
        label = MULTI_PIE_EXPRESSIONS.index(RECORDINGS[shot.session, shot.recording])
        rows.append(TruthRow(subject, shot.sequence, 0, frame.landmarks, shot != missing, {"expression": label}))
        tick(1)
    if k == 0:
        first = root / images[0].path(subject)
        (first.parents[1] / "Thumbs.db").write_bytes(b"no image")
        highres = root / "data" / "session01" / "highres" / subject
        highres.mkdir(parents=True)
        (highres / f"{subject}_01_01.png").write_bytes(first.read_bytes())
    if k == _FAULTY and with_faults:
        first, last = (root / shot.path(subject) for shot in (images[0], images[-1]))
        first.rename(last.parent / first.name)
        last.write_bytes(b"")
    return rows


def _write_extras(root: Path, subjects: int) -> None:
    """The list of subjects."""
    (root / "meta").mkdir()
    lines = []
    for k, number in enumerate(IDS[:subjects]):
        sessions = ATTENDANCE[k % len(ATTENDANCE)]
        came = " ".join(str(int(session in sessions)) for session in range(1, 5))
        lines.append(f"{number:03d} {1950 + (7 * k) % 40} {('Male', 'Female')[k % 2]} {came}\n")
    (root / "meta" / "subject_list.txt").write_text("".join(lines))


def _png(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()

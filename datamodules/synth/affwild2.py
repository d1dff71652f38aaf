"""A twin of Aff-Wild2: rendered faces in the raw layout of the archives (`datamodules.raw.affwild2`), videos and crops.

Persons before a wall go through EMFACS expressions, one in eight tenths of a second, with pauses; what ``Other`` is, is
this suite's own choice (`datamodules.synth.emfacs`). The annotations are those of one ABAW release. AU and EXPR label
the same tracks; their official parts differ.

The 112-pixel crops are similarity transforms of the videos' frames that bring eyes, nose and mouth corners to
`CROP_POINTS`, with somewhat more around the face than the archive's. ``truth.parquet`` has the landmarks in pixels of
the crops, or of the videos where ``source`` says so, and its column ``image`` is about the same pictures.

Traps: second persons on the left and on the right; -1 and -5 for one AU and for whole rows; crops missing within a
track and at its end; a video with two frames too many and one with one too few; mp4 with B-frames and avi, in three
folders; ``*_3d.jpg``, ``.DS_Store`` and a list of test videos beside.
"""

from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import av
import numpy as np

from datamodules.align import five_points, similarity, warp_image, warp_points
from datamodules.facs import au_name
from datamodules.jobs import Tick
from datamodules.raw.affwild2 import RELEASES, VALIDATION, Release, Track
from datamodules.synth.clips import Clip, Sitter, group
from datamodules.synth.emfacs import draw_levels
from datamodules.synth.scene import backdrop
from datamodules.synth.streams import Purpose, stream, wander
from datamodules.synth.twin import TruthRow, check_range, encode_jpeg, write_twin

FPS = 30
CROP = 112
#: Where five points (`datamodules.align.five_points`) are in a crop.
CROP_POINTS = np.array([(42.0, 50.0), (70.0, 50.0), (56.0, 66.0), (44.5, 82.0), (67.5, 82.0)])
EXPRESSION_FRAMES = 24  # from one expression to the next
_RAMP = 6  # frames of onset, and of offset


class Video(NamedTuple):
    """One video of the twin.

    Attributes:
        name: Name of the video, also of its main person's track.
        second: Side of a second person; empty for none.
        file: Folder and ending.
        parts: Official part of the track in AU and in EXPR.
        excess: Frames that the video has beyond its labels (negative: lacks).
    """

    name: str
    second: Literal["", "left", "right"]
    file: tuple[str, str]
    parts: dict[Track, Literal["train", "validation"]]
    excess: int = 0


# The first two have both parts, the first four both sides: small twins are complete.
_VIDEOS = (
    Video("1-30-1280x720", "", ("batch1", "mp4"), {"au": "train", "expr": "train"}, 2),
    Video("video2", "", ("batch2", "mp4"), {"au": "validation", "expr": "validation"}, -1),
    Video("10-60-1280x720", "right", ("batch1", "mp4"), {"au": "train", "expr": "validation"}),
    Video("video59", "left", ("batch2", "avi"), {"au": "validation", "expr": "train"}),
    Video("7-60-1920x1080", "", ("new_vids", "avi"), {"au": "train", "expr": "train"}),
    Video("video96", "", ("new_vids", "mp4"), {"au": "train", "expr": "validation"}),
)


def write_affwild2(
    out: Path,
    subjects: int = 6,
    frames: int = 72,
    seed: int = 0,
    size: int = 160,
    release: Release = "abaw3",
    source: Literal["crops", "videos"] = "crops",
    with_faults: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> Path:
    """Render a twin of Aff-Wild2: raw videos, crops, and the annotations of one ABAW release.

    Args:
        out: Folder to make; must not exist.
        subjects: Videos, at least two; with four, second persons are on either side.
        frames: Label rows of each track.
        seed: Seed of faces and behaviour.
        size: Height of the videos in pixels.
        release: Whose folders, columns, classes and parts to write.
        source: What the truth is about, the ``crops`` or the ``videos``; both are written.
        with_faults: Cut the label files of the first video in half.
        workers: Processes to spread the videos over; 0 works in this one.
        progress: Whether to show a progress bar.

    Returns:
        ``out``.

    Raises:
        DataError: When ``out`` exists or a number is out of range.
    """
    check_settings(subjects, frames, seed, size)
    return write_twin(
        out,
        list(range(subjects)),
        partial(_write_video, frames, seed, size, release, source, with_faults),
        total=subjects * frames,
        workers=workers,
        progress=progress,
        description="render affwild2",
    )


def check_settings(subjects: int, frames: int, seed: int, size: int) -> None:
    """Raise `DataError` for numbers that `write_affwild2` cannot take."""
    check_range("affwild2", "subjects", subjects, 2, 1000)  # one in each part
    check_range("affwild2", "frames", frames, 24, 99_990)  # traps need room; file names have five digits
    check_range("affwild2", "seed", seed, 0, 2**32 - 1)
    check_range("affwild2", "size", size, 32, 2048)


def video(number: int) -> Video:
    """The video with this number, from 0."""
    pattern = _VIDEOS[number % len(_VIDEOS)]
    return pattern if number < len(_VIDEOS) else pattern._replace(name=f"{100 + number}-30-1280x720", excess=0)


def tracks(film: Video) -> list[str]:
    """Tracks of a video from left to right."""
    second = f"{film.name}_{film.second}"
    return {"": [film.name], "left": [second, film.name], "right": [film.name, second]}[film.second]


class Moment(NamedTuple):
    """What a person shows in a frame.

    Attributes:
        expression: Class name.
        levels: AU to level 0..5.
    """

    expression: str
    levels: dict[int, float]


def behaviour(seed: int, person: int, index: int, classes: tuple[str, ...]) -> Moment:
    """What a person shows in frame ``index`` (from 0) of a video.

    One expression after the other rises, stays and falls, in the order of the classes; it is labelled while it is at
    half its strength or more, before and after the face is neutral. Persons start at different classes, so that all are
    in both parts of twins that are not shorter than the default.
    """
    segment, k = divmod(index, EXPRESSION_FRAMES)
    name = classes[1 + (seed + 3 * person + segment) % (len(classes) - 1)]
    levels = draw_levels(name, stream(seed, person, Purpose.SEGMENT, segment))
    strength = float(np.clip(min(k, EXPRESSION_FRAMES - 1 - k) / _RAMP, 0, 1))
    return Moment(name if strength >= 0.5 else classes[0], {au: strength * level for au, level in levels.items()})


def render_frame(
    seed: int, number: int, index: int, size: int, classes: tuple[str, ...]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Frame ``index`` (from 0) of a video: (H, W, 3) uint8 RGB, and the landmarks of its persons from the left."""
    return _Stage(seed, number, size, classes).frame(index)


class _Stage:
    """A video's persons before their wall."""

    def __init__(self, seed: int, number: int, size: int, classes: tuple[str, ...]) -> None:
        self._seed, self._number, self._classes = seed, number, classes
        self.persons = [1 + 2 * number + k for k in range(len(tracks(video(number))))]
        rng = stream(seed, self.persons[0], Purpose.SCENE, 1)
        width = size * (4 if len(self.persons) == 1 else 6) // 3
        self.shape = size - size % 2, width - width % 2  # video codecs want even numbers
        face = round(size * (0.95 if len(self.persons) == 1 else 0.85))
        factor = max(1, -(-128 // face))
        self._clips = [Clip(person, seed=seed, size=face, factor=factor) for person in self.persons]
        at = rng.uniform(0.42, 0.58, 1) if len(self.persons) == 1 else rng.uniform((0.24, 0.7), (0.3, 0.76))
        self._places = [
            (x * self.shape[1], y * self.shape[0]) for x, y in zip(at, rng.uniform(0.5, 0.55, 2), strict=False)
        ]
        self._wall = backdrop(rng, *self.shape, things=4)

    def frame(self, index: int) -> tuple[np.ndarray, list[np.ndarray]]:
        sitters = []
        for person, clip, place in zip(self.persons, self._clips, self._places, strict=True):
            sway = wander(self._seed, person, Purpose.POSE, index / FPS, 0.8, 5)
            yaw, pitch, roll = np.clip(sway[:3] * (10, 6, 5), -25, 25).tolist()
            x, y = np.array(place) + 0.03 * self.shape[0] * sway[3:]
            levels = behaviour(self._seed, person, index, self._classes).levels
            sitters.append(Sitter(clip, levels, (yaw, pitch, roll), (float(x), float(y))))
        return group(sitters, self._wall, index=index)


def _write_video(
    frames: int,
    seed: int,
    size: int,
    release: Release,
    source: Literal["crops", "videos"],
    with_faults: bool,
    root: Path,
    number: int,
    tick: Tick,
) -> list[TruthRow]:
    film, form = video(number), RELEASES[release]
    if number == 0:
        _write_extras(root, form.annotations)
    stage = _Stage(seed, number, size, form.expressions)
    names = tracks(film)
    crops = [root / "cropped_aligned" / name for name in names]
    for place in crops:
        place.mkdir(parents=True, exist_ok=True)
    folder, ending = film.file
    (root / folder).mkdir(exist_ok=True)
    labels = [_labels(seed, person, frames, release) for person in stage.persons]
    rows: list[TruthRow] = []
    with _Recorder(root / folder / f"{film.name}.{ending}", stage.shape) as recorder:
        for index in range(frames + max(film.excess, 0)):
            image, points = stage.frame(index)
            filmed = index < frames + film.excess
            if filmed:
                recorder.add(image)
            if index >= frames:
                continue
            for name, place, landmarks, label in zip(names, crops, points, labels, strict=True):
                matrix = similarity(five_points(landmarks), CROP_POINTS)
                cropped = filmed and _has_crop(name, index, frames)
                if cropped:
                    crop = warp_image(image, matrix, CROP)
                    (place / f"{index + 1:05d}.jpg").write_bytes(encode_jpeg(crop, 95))
                truth = warp_points(landmarks, matrix) if source == "crops" else landmarks
                exists = cropped if source == "crops" else filmed
                rows.append(TruthRow(film.name, name, index + 1, truth, exists, label[index].truth))
            tick(1)
    for name, label in zip(names, labels, strict=True):
        for track, part in film.parts.items():
            cut = with_faults and number == 0
            _write_labels(root, release, track, part, name, [entry.text[track] for entry in label], cut)
    return rows


def _has_crop(name: str, index: int, frames: int) -> bool:
    """Whether a face was found: not in two frames of each track, nor in the last ones of one."""
    return index not in (2 * frames // 3, 2 * frames // 3 + 1) and not (name == "video2" and index >= frames - 4)


class _Label(NamedTuple):
    """A frame's labels: as a parser must return them, and as they are written."""

    truth: dict[str, int]
    text: dict[Track, str]


def _labels(seed: int, person: int, frames: int, release: Release) -> list[_Label]:
    form = RELEASES[release]
    labels = []
    for index in range(frames):
        moment = behaviour(seed, person, index, form.expressions)
        aus = {au: int(moment.levels.get(au, 0.0) >= 1) for au in form.aus}
        written: dict[int, int] = dict(aus)
        expression = form.expressions.index(moment.expression)
        if index in (frames // 4, frames // 4 + 1):
            written = dict.fromkeys(aus, -1)
            expression = -1
        elif index == frames // 2:
            written[form.aus[0]] = -1
        elif index == frames // 2 + 1:
            written, expression = dict.fromkeys(aus, -5), -5
        truth = {au_name(au): max(value, -1) for au, value in written.items()} | {"expression": max(expression, -1)}
        labels.append(_Label(truth, {"au": ",".join(map(str, written.values())), "expr": str(expression)}))
    return labels


def _write_labels(
    root: Path,
    release: Release,
    track: Track,
    part: Literal["train", "validation"],
    name: str,
    lines: list[str],
    cut: bool,
) -> None:
    form = RELEASES[release]
    folder = root / form.annotations / form.folders[track][0] / (form.training if part == "train" else VALIDATION)
    folder.mkdir(parents=True, exist_ok=True)
    header = [f"AU{au}" for au in form.aus] if track == "au" else form.expressions
    text = "".join(f"{line}\n" for line in (",".join(header), *lines))
    (folder / f"{name}.txt").write_text(text[: len(text) // 2] if cut else text)


def _write_extras(root: Path, annotations: str) -> None:
    """What lies beside: the test videos' list, and what parsers must not take for crops."""
    first = root / "cropped_aligned" / _VIDEOS[0].name
    first.mkdir(parents=True, exist_ok=True)
    (first / "00001_3d.jpg").write_bytes(b"no crop")
    for folder in (first, first.parent):
        (folder / ".DS_Store").write_bytes(b"no crop")
    (root / annotations).mkdir(exist_ok=True)
    (root / annotations / "AU_test_set_release.txt").write_text("2-30-640x360\n28-30-1280x720-1\n")


class _Recorder:
    """A video file: MPEG-4, finest usual quality; in mp4 with B-frames, which seeking readers get wrong."""

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self._container = av.open(str(path), "w", options={"fflags": "+bitexact"})  # no library version in the file
        quality = {"flags": "+bitexact+qscale", "global_quality": str(2 * 118)}  # quantiser 2; 118: FFmpeg's unit
        self._stream = self._container.add_stream("mpeg4", rate=FPS, options=quality)
        self._stream.height, self._stream.width = shape
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.max_b_frames = 2 if path.suffix == ".mp4" else 0

    def __enter__(self) -> "_Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()

    def add(self, image: np.ndarray) -> None:
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))

"""A twin of CAER-S: rendered scenes in the archive's raw layout, with box lists (`datamodules.raw.caer_s`).

EMFACS expressions, worn by persons in rooms; the labelled face is the largest. Box lists in both public formats lie in
``ROOT/boxes/annotations`` and ``ROOT/boxes/detector``.

Traps: Anger is spelled Angry in ``train`` alone; pictures differ in size; numbers have gaps; some pictures show a
second, smaller face; one picture of ``test`` is byte-identical with one of ``train``; in the lists one image is not
there, one box begins before its picture and one has its corners in the wrong order; strangers lie in a class folder.
"""

from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from datamodules.facs import EXPRESSIONS
from datamodules.jobs import Tick
from datamodules.raw.caer_s import CLASSES, PARTS
from datamodules.synth.clips import Clip, Sitter, group
from datamodules.synth.emfacs import draw_levels
from datamodules.synth.scene import backdrop
from datamodules.synth.streams import Purpose, stream
from datamodules.synth.twin import TruthRow, check_range, write_twin

Part = Literal["test", "train"]

_GAP = 3  # number that no class of `train` has
_TWICE = 2  # number of the picture of train/Happy that test/Happy has as its number 1
_BEYOND = ("train", "Fear", 2)  # face at the left edge
_SWAPPED = ("train", "Anger", 1)
_UNBOXED = ("train", "Surprise", 1)


class Scene(NamedTuple):
    """One picture.

    Attributes:
        image: (height, width, 3) uint8 RGB.
        landmarks: (68, 2) float32 of the labelled face.
        others: Landmarks of the other faces.
    """

    image: np.ndarray
    landmarks: np.ndarray
    others: list[np.ndarray]


def write_caer_s(
    out: Path,
    subjects: int = 6,
    seed: int = 0,
    size: int = 480,
    with_faults: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> Path:
    """Render a twin of CAER-S: persons in rooms, with box lists in both public formats.

    Args:
        out: Folder to make; must not exist.
        subjects: Images of each class in ``train``; ``test`` has half as many, at least two.
        seed: Seed of scenes and expressions.
        size: Height of the tallest pictures in pixels.
        with_faults: Empty an image, and cut the last line of the box lists of ``train``.
        workers: Processes to spread the two parts over; 0 works in this one.
        progress: Whether to show a progress bar.

    Returns:
        ``out``.

    Raises:
        DataError: When ``out`` exists or a number is out of range.
    """
    check_settings(subjects, seed, size)
    return write_twin(
        out,
        PARTS,
        partial(_write_part, subjects, seed, size, with_faults),
        total=len(CLASSES) * sum(len(_numbers(part, subjects)) for part in PARTS),
        workers=workers,
        progress=progress,
        description="render caer_s",
    )


def check_settings(subjects: int, seed: int, size: int) -> None:
    """Raise `DataError` for numbers that `write_caer_s` cannot take."""
    check_range("caer_s", "subjects", subjects, 2, 9998)  # file names have four digits
    check_range("caer_s", "seed", seed, 0, 2**32 - 1)
    check_range("caer_s", "size", size, 64, 2048)


def render_scene(seed: int, part: Part, name: str, number: int, size: int) -> Scene:
    """A picture by its part, class folder (``Anger`` for both spellings) and number.

    Args:
        seed: Seed of the twin.
        part: ``train`` or ``test``.
        name: Key of `datamodules.raw.caer_s.CLASSES`.
        number: From 1.
        size: Height of the tallest pictures.
    """
    if (part, name, number) == ("test", "Happy", 1):
        part, number = "train", _TWICE
    scene = 20_000 * list(CLASSES).index(name) + 10_000 * PARTS.index(part) + number
    rng = stream(seed, scene, Purpose.SCENE, 1)
    height = round(size * rng.uniform(0.6, 1))
    width = round(height * rng.uniform(1.3, 1.48))
    face = round(size * rng.uniform(0.4, 0.6))
    factor = max(1, -(-128 // face))
    where = np.array([rng.uniform(0.25, 0.75) * width, rng.uniform(0.42, 0.55) * height])
    if (part, name, number) == _BEYOND:
        where[0] = 0.22 * face
    sitters = [
        Sitter(
            Clip(scene, seed=seed, size=face, factor=factor),
            draw_levels(CLASSES[name], rng),
            _pose(rng),
            (float(where[0]), float(where[1])),
        )
    ]
    if rng.random() < 0.35:
        small = round(face * rng.uniform(0.6, 0.75))
        side = 1 if where[0] < width / 2 else -1
        place = (float(where[0] + side * (0.45 * (face + small))), float(where[1] + rng.uniform(-0.05, 0.1) * height))
        if small / 3 < place[0] < width - small / 3:
            emotion = EXPRESSIONS[rng.integers(len(EXPRESSIONS))]
            clip = Clip(scene + 1_000_000, seed=seed, size=small, factor=factor)
            sitters.insert(0, Sitter(clip, draw_levels(emotion, rng), _pose(rng), place))
    image, points = group(sitters, backdrop(rng, height, width, things=int(rng.integers(4, 9))))
    return Scene(image, points[-1], points[:-1])


def box_of(landmarks: np.ndarray) -> list[int]:
    """Square box about the 68 points as detectors draw it: x1, y1, x2, y2, whole pixels, perhaps beyond the picture."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    half = 0.54 * float((high - low).max())
    x, y = ((low + high) / 2).tolist()
    return [round(x - half), round(y - half), round(x + half), round(y + half)]


def _pose(rng: np.random.Generator) -> tuple[float, float, float]:
    yaw, pitch, roll = np.clip(rng.normal(0, (12, 6, 5)), -28, 28).tolist()
    return yaw, pitch, roll


def _numbers(part: str, subjects: int) -> list[int]:
    if part == "test":
        return list(range(1, max(2, subjects // 2) + 1))
    return [number for number in range(1, subjects + 2) if number != _GAP]


def _write_part(
    subjects: int, seed: int, size: int, with_faults: bool, root: Path, part: Part, tick: Tick
) -> list[TruthRow]:
    rows, boxes = [], []
    for label, (name, expression) in enumerate(CLASSES.items()):
        spelling = "Angry" if (part, name) == ("train", "Anger") else name
        folder = root / part / spelling
        folder.mkdir(parents=True)
        for number in _numbers(part, subjects):
            key = (part, name, number)
            scene = render_scene(seed, part, name, number, size)
            (folder / f"{number:04d}.png").write_bytes(_png(scene.image))
            truth = {"expression": EXPRESSIONS.index(expression)}
            rows.append(TruthRow(f"{part}/{name}/{number:04d}", "still", 0, scene.landmarks, True, truth))
            if key != _UNBOXED:
                x1, y1, x2, y2 = box_of(scene.landmarks)
                corners = (x2, y2, x1, y1) if key == _SWAPPED else (x1, y1, x2, y2)
                boxes.append((number, f"{spelling}/{number:04d}.png,{label},{','.join(map(str, corners))}"))
            tick(1)
    _write_boxes(root / "boxes", part, boxes, cut=with_faults and part == "train")
    if part == "train":
        (root / part / "Disgust" / "Thumbs.db").write_bytes(b"no image")
        (root / part / "Disgust" / ".DS_Store").write_bytes(b"no image")
        if with_faults:
            (root / part / "Sad" / "0001.png").write_bytes(b"")
    return rows


def _write_boxes(folder: Path, part: Part, boxes: list[tuple[int, str]], cut: bool) -> None:
    """Both formats; detector lists share the folder `test` between validation (even numbers) and test."""
    lists = {f"annotations/{part}.txt": [f"{part}/{line}\n" for _, line in boxes]}
    if part == "train":
        lists["detector/train.txt"] = [f"{line}\n" for _, line in boxes]
    else:
        for parity, name in enumerate(("val", "test")):
            lists[f"detector/{name}.txt"] = [f"{line}\n" for number, line in boxes if number % 2 == parity]
    for name, lines in lists.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(lines)[: -5 if cut else None])


def _png(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()

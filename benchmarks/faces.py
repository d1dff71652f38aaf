"""Face detectors on clips, photographs and DISFA-like videos: how often, how fast, how near to the truth.

    python benchmarks/faces.py [--files FOLDER] [--disfa ROOT] [--detectors dlib mtcnn mediapipe] [--pictures FOLDER]

Three tables: detection rate and frames a second (processor time and wall time; reading the files not counted) for every
clip and photograph of a folder; the same for a root in DISFA's layout; and there the distance of the 68 points to the
truth (ROOT/truth/SUBJECT.npz, where present) and to the landmarks that the dataset delivers, as shares of the distance
between the outer eye corners: mean, and 95th percentile over frames. Each detector runs alone in one thread, with its
models loaded before. Detectors that are not installed are left out. With ``--pictures`` every file becomes a picture
with boxes and landmarks drawn, to be looked at.
"""

import argparse
import itertools
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from datamodules.errors import DataError
from datamodules.faces import DETECTORS, Face, FaceSource
from datamodules.faces.detectors import create_detector
from datamodules.faces.tracking import DetectedFaces
from datamodules.raw.disfa import DISFARaw
from datamodules.raw.media import decode, read_image
from datamodules.raw.records import FrameRecord
from datamodules.synth.clips import render_clip

SHARED = Path(__file__).parents[2] / "shared" / "data"
GROUPS = {"jaw": (0, 17), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68), "all": (0, 68)}
SHOWN = 12  # frames of a clip in its picture
SIDE = 360  # pixels of a frame in it


def main() -> int:
    """Run all measurements and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, default=SHARED / "faces", help="folder of clips and photographs")
    parser.add_argument("--disfa", type=Path, default=SHARED / "disfa_ict", help="root in DISFA's layout")
    parser.add_argument("--stride", type=int, default=6, help="every which frame of DISFA's videos (%(default)s)")
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS), choices=DETECTORS)
    parser.add_argument("--pictures", type=Path, help="folder for pictures of what was found")
    settings = parser.parse_args()
    cv2.setNumThreads(0)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, OpenCV {cv2.__version__}")
    sources = {}
    for name in settings.detectors:
        try:
            sources[name] = DetectedFaces(create_detector(name))
        except DataError as error:
            print(f"{name}: left out: {error}")
            continue
        warm = next(render_clip(1, 1, size=256)).image
        assert sources[name].find(FrameRecord("warm", "up", 0, 0.0, warm, None)) is not None
    if settings.pictures:
        settings.pictures.mkdir(parents=True, exist_ok=True)
    _files(sources, settings.files, settings.pictures)
    _disfa(sources, settings.disfa, settings.stride, settings.pictures)
    return 0


def _files(sources: dict[str, DetectedFaces], folder: Path, pictures: Path | None) -> None:
    print(
        f"\n{'file':28} {'frames':>6}  "
        + "  ".join(f"{name + ': found':>16} {'/s cpu':>7} {'/s':>7}" for name in sources)
    )
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".jpg", ".png"):
            images = [read_image(path)]
        elif path.suffix.lower() in (".mp4", ".avi"):
            images = [image for _, image in decode(path)]
        else:
            continue
        records = [FrameRecord("", path.name, frame, 0.0, image, None) for frame, image in enumerate(images)]
        columns = []
        for name, source in sources.items():
            faces, cpu, wall = _timed(source, records)
            columns.append(f"{sum(face is not None for face in faces) / len(faces):16.3f} {cpu:7.1f} {wall:7.1f}")
            if pictures:
                _draw(records, faces, pictures / f"{path.name}_{name}.png")
        print(f"{path.name:28} {len(images):6d}  " + "  ".join(columns), flush=True)


def _disfa(sources: dict[str, DetectedFaces], root: Path, stride: int, pictures: Path | None) -> None:
    raw = DISFARaw(root)
    found = {name: [0, 0, 0.0, 0.0] for name in sources}  # faces, frames, seconds of processor and wall
    distances: dict[tuple[str, str], list[np.ndarray]] = {}
    for subject in raw.clips():
        records = list(itertools.islice(raw.frames(subject), 0, None, stride))
        truth_file = root / "truth" / f"{subject}.npz"
        truth = np.load(truth_file)["landmarks"] if truth_file.exists() else None
        for name, source in sources.items():
            faces, cpu, wall = _timed(source, records)
            total = found[name]
            total[0] += sum(face is not None for face in faces)
            total[1] += len(faces)
            total[2] += len(faces) / cpu
            total[3] += len(faces) / wall
            if pictures:
                _draw(records, faces, pictures / f"disfa_{subject}_{name}.png")
            for record, face in zip(records, faces, strict=True):
                if face is None or face.landmarks is None:
                    continue
                references = {"truth": None if truth is None else truth[record.frame], "delivered": record.landmarks}
                for reference, points in references.items():
                    if points is not None:
                        unit = np.linalg.norm(points[36] - points[45])
                        distance = np.linalg.norm(face.landmarks - points, axis=1) / unit
                        distances.setdefault((name, reference), []).append(distance)
    print(f"\n{root.name}: {sum(1 for _ in raw.clips())} subjects, every {stride}th frame")
    for name, (faces, frames, cpu, wall) in found.items():
        print(
            f"{name:10} found {faces}/{frames} = {faces / frames:.4f}, {frames / cpu:.1f}/s cpu, {frames / wall:.1f}/s"
        )
    print(f"\n{'distance to':22} " + " ".join(f"{group + ' mean/p95':>16}" for group in GROUPS))
    for (name, reference), rows in sorted(distances.items()):
        columns = []
        for first, last in GROUPS.values():
            means = np.nanmean(np.array(rows)[:, first:last], axis=1)
            columns.append(f"{means.mean():9.4f} {np.percentile(means, 95):.4f}")
        print(f"{name + ', ' + reference:22} " + " ".join(columns))


def _timed(source: FaceSource, records: list[FrameRecord]) -> tuple[list[Face | None], float, float]:
    """Faces, and frames a second of processor time and of wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    faces = [source.find(record) for record in records]
    return faces, len(records) / (time.process_time() - cpu), len(records) / (time.perf_counter() - wall)


def _draw(records: list[FrameRecord], faces: list[Face | None], path: Path) -> None:
    """A sheet of frames from the whole clip with their boxes and landmarks."""
    chosen = np.unique(np.linspace(0, len(records) - 1, SHOWN).round().astype(int)).tolist()
    side = SIDE if len(chosen) > 1 else 3 * SIDE
    tiles = [_tile(records[k], faces[k], side) for k in chosen]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 4 if len(tiles) > 1 else 0)
    rows = [np.hstack(row) for row in _by(4, tiles)]
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def _by(count: int, tiles: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    for start in range(0, len(tiles), count):
        yield tiles[start : start + count]


def _tile(record: FrameRecord, face: Face | None, side: int) -> np.ndarray:
    assert record.image is not None
    scale = side / max(record.image.shape[:2])
    image = cv2.resize(record.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    text = f"{record.frame} none"
    if face is not None and face.landmarks is not None:
        text = f"{record.frame} {face.score:.2f}"
        box = ((face.box + 0.5) * scale - 0.5).round().astype(int).tolist()
        cv2.rectangle(image, tuple(box[:2]), tuple(box[2:]), (255, 220, 0), 1)
        for x, y in (face.landmarks + 0.5) * scale - 0.5:
            cv2.circle(image, (round(float(x) * 16), round(float(y) * 16)), 24, (0, 255, 60), -1, cv2.LINE_AA, 4)
    cv2.putText(image, text, (5, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 40, 40), 1, cv2.LINE_AA)
    return image


if __name__ == "__main__":
    raise SystemExit(main())

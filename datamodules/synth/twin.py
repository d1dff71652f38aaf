"""What the writers of twins share: a folder that appears when complete, and the truth of everything in it.

``ROOT/truth.parquet`` marks a folder as twin. One row a label row, sorted by the first three columns::

    subject, sequence: string; frame: int64    the key, as the parser of the layout must give it
    landmarks: fixed-size list of 136 float32  x, y of the 68 points in pixels of the picture, NaN unknown
    image: bool                                whether the picture exists
    AU06, AU06_intensity, expression, ...      int8, every label column, as a correct parser must return it: -1 unknown
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import DataError
from datamodules.facs import LANDMARKS
from datamodules.jobs import Tick, run_jobs
from datamodules.raw.records import TRUTH

_KEY = ["subject", "sequence", "frame"]
_FIXED = (*_KEY, "landmarks", "image")


class TruthRow(NamedTuple):
    """What is true of one label row.

    Attributes:
        subject: As the dataset names the person.
        sequence: As the parser names it.
        frame: As the parser counts it.
        landmarks: (68, 2) x, y in pixels of the picture, NaN unknown; None where nothing is known.
        image: Whether the picture exists in the twin.
        labels: Column to value, -1 unknown; columns left out are -1.
    """

    subject: str
    sequence: str
    frame: int
    landmarks: np.ndarray | None
    image: bool
    labels: dict[str, int]


def write_twin(
    out: Path,
    pieces: Sequence[Any],
    write_piece: Callable[[Path, Any, Tick], list[TruthRow]],
    *,
    total: int,
    workers: int,
    progress: bool,
    description: str,
) -> Path:
    """Write a twin piece by piece into a hidden folder beside ``out``, which takes its name when complete.

    Args:
        out: Folder to make; must not exist.
        pieces: What is independent of each other, usually the subjects.
        write_piece: Function of an importable module, or a partial of one: writes one piece into the folder that it is
            given, calls ``tick(n)`` after n frames, and returns what is true of them. The folder may already hold files
            of other pieces.
        total: Frames of all pieces.
        workers: Processes to spread the pieces over; 0 works in this one.
        progress: Whether to show a progress bar.
        description: Text before the bar.

    Returns:
        ``out``.

    Raises:
        DataError: When ``out`` exists, or cannot be written.
    """
    if out.exists():
        raise DataError(f"{out} exists", "choose another --out, or delete it")
    work = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(work, ignore_errors=True)
        truths = work / ".truth"
        truths.mkdir(parents=True)
        run_jobs(
            partial(_write, work, write_piece),
            list(enumerate(pieces)),
            total=total,
            workers=workers,
            progress=progress,
            description=description,
        )
        tables = [pq.read_table(path) for path in sorted(truths.iterdir())]
        shutil.rmtree(truths)
        pq.write_table(_join(tables), work / TRUTH)
        return work.rename(out)
    except OSError as error:
        raise DataError(
            f"{out} cannot be written: {error.strerror or error}", f"make room, or choose another --out; delete {work}"
        ) from error


def read_truth(root: Path) -> Iterator[TruthRow]:
    """Rows of a twin's truth in order; the inverse of what `write_twin` collected."""
    table = pq.read_table(root / TRUTH)
    columns = [name for name in table.column_names if name not in _FIXED]
    points = table["landmarks"].combine_chunks().flatten().to_numpy().reshape(-1, LANDMARKS, 2)
    values = np.stack([table[name].to_numpy() for name in columns], axis=1).tolist() if columns else [[]] * len(table)
    keys = (table[name].to_pylist() for name in (*_KEY, "image"))
    for subject, sequence, frame, image, landmarks, labels in zip(*keys, points, values, strict=True):
        known = None if np.isnan(landmarks).all() else landmarks
        yield TruthRow(subject, sequence, frame, known, image, dict(zip(columns, labels, strict=True)))


def check_range(dataset: str, key: str, value: int, least: int, most: int) -> None:
    """Raise `DataError` for a writer's number that is out of range."""
    if not least <= value <= most:
        raise DataError(f"{dataset}: {key}={value} is out of range", f"choose {key} from {least} to {most}")


def cut_file(path: Path) -> None:
    """Keep the first half of a text file, to the middle of a line after the first: what a broken-off copy leaves."""
    data = path.read_bytes()
    start = max(data.rfind(b"\n", 0, len(data) // 2), data.find(b"\n")) + 1
    path.write_bytes(data[: (start + data.index(b"\n", start)) // 2])


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """JPEG file of an (H, W, 3) uint8 RGB picture, colour at full resolution."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    assert done
    return data.tobytes()


def _write(
    work: Path, write_piece: Callable[[Path, Any, Tick], list[TruthRow]], item: tuple[int, Any], tick: Tick
) -> None:
    number, piece = item
    pq.write_table(_table(write_piece(work, piece, tick)), work / ".truth" / f"{number:06d}.parquet")


def _table(rows: list[TruthRow]) -> pa.Table:
    points = np.full((len(rows), LANDMARKS, 2), np.nan, np.float32)
    for k, row in enumerate(rows):
        if row.landmarks is not None:
            points[k] = row.landmarks
    columns = list(dict.fromkeys(column for row in rows for column in row.labels))
    return pa.table(
        {
            "subject": pa.array([row.subject for row in rows], pa.string()),
            "sequence": pa.array([row.sequence for row in rows], pa.string()),
            "frame": pa.array([row.frame for row in rows], pa.int64()),
            "landmarks": pa.FixedSizeListArray.from_arrays(pa.array(points.ravel()), 2 * LANDMARKS),
            "image": pa.array([row.image for row in rows], pa.bool_()),
            **{column: pa.array([row.labels.get(column, -1) for row in rows], pa.int8()) for column in columns},
        }
    )


def _join(tables: list[pa.Table]) -> pa.Table:
    whole = pa.concat_tables(tables, promote_options="default")
    for k, name in enumerate(whole.column_names):
        if name not in _FIXED:
            whole = whole.set_column(k, name, whole[name].fill_null(-1))
    return whole.sort_by([(name, "ascending") for name in _KEY]).combine_chunks()

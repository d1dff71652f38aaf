"""The data side beside the obvious: an image file a frame, a list of paths, cv2.imread, one albumentations pipeline.

    python benchmarks/data.py [--subjects 6] [--frames 120]

One run renders a twin of DISFA, prepares it, writes the same JPEG files one by one, and measures: opening by number of
frames, reads at random, loaders with augmentation and what their time goes to, preparation. Time is CPU time of all
processes of a measurement, the best of several rounds in turn; memory is resident memory that it adds (Linux).
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from datamodules.facs import DISFA_12, FLIP_68
from datamodules.frames import FrameDataset
from datamodules.prepare import prepare
from datamodules.raw.disfa import DISFARaw
from datamodules.sampling import TrainSampler
from datamodules.store import INDEX, LANDMARKS, MANIFEST, MATRICES, SHARDS, VERSION, FrameStore
from datamodules.synth.disfa import write_disfa
from datamodules.transforms import CropFlip, Frame, SourceCrop, Transform

ROUNDS = 4
BATCH = 64
T = 10  # AUNet's distance of neighbours
COLUMNS = [f"AU{au:02d}_intensity" for au in DISFA_12]


def main() -> int:
    """Run all measurements and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=6, help="subjects of the twin (%(default)s)")
    parser.add_argument("--frames", type=int, default=120, help="frames of each (%(default)s)")
    settings = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    print(f"OpenCV {cv2.__version__}, albumentations {A.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("\nopening            rows     seconds    MB")
        for rows in (10_000, 1_000_000):
            _write_index(folder / f"{rows}", rows)
            for what in (open_store, open_and_read, open_all, open_list):
                seconds, memory = _apart(what, folder / f"{rows}")
                print(f"{what.__doc__:15}{rows:10,d}{seconds:10.4f}{memory:8.1f}")

        raw = write_disfa(folder / "raw", settings.subjects, settings.frames, size=320, progress=False)
        for preset in ("renet", "aunet"):
            summary = prepare(DISFARaw(raw), folder / preset, preset=preset, progress=False)
            stages = ", ".join(f"{stage} {rate:.0f}" for stage, rate in summary.stages.items())
            print(f"\npreparing {summary.rows} frames of 320x320, {preset}: frames/s of each stage: {stages}")
            _write_files(folder / preset)
            _print_reads(folder / preset)
            _print_loaders(folder / preset, T if preset == "aunet" else 0)

        print("\npreparing: memory")
        for count in (100, 1000):
            raw = write_disfa(folder / f"raw{count}", subjects=1, frames=count, size=128, progress=False)
            print(f"{count:5d} frames of one video: {_apart(_prepare, raw):.0f} MB beside imports")
    return 0


def _apart(measure: Callable[..., Any], *arguments: Any) -> Any:
    """Result of a measurement in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_calm, measure, arguments).result()


def _calm(measure: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    multiprocessing.set_start_method("fork", force=True)  # of the loaders' workers, as usual on Linux
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    return measure(*arguments)


def _memory(field: str = "VmRSS") -> float:
    """Resident memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _best(ways: dict[str, Callable[[], int]]) -> dict[str, float]:
    """CPU seconds for each of the things that a way did: ways take turns, since other work on the machine varies."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, way in ways.items():
            before = _cpu()
            done = way()
            best[name] = min(best[name], (_cpu() - before) / done)
    return best


# Opening


def _opened(work: Callable[[], Any]) -> tuple[float, float]:
    memory, start = _memory(), time.perf_counter()
    kept = work()
    seconds = time.perf_counter() - start
    assert kept is not None
    return seconds, _memory() - memory


def open_store(folder: Path) -> tuple[float, float]:
    """open"""
    return _opened(lambda: (opened := FrameStore(folder), len(opened), opened.columns))


def open_and_read(folder: Path) -> tuple[float, float]:
    """a clip of it"""

    def work() -> Any:
        opened = FrameStore(folder)
        row = len(opened) // 2
        assert opened.neighbour(row, T) == row + T
        return opened, opened.shard_code[row], opened.offset[row], opened.length[row], opened.landmarks(row)

    return _opened(work)


def open_all(folder: Path) -> tuple[float, float]:
    """all columns"""
    codes = [f"{name}_code" for name in ("subject", "sequence", "shard", "split")]
    fields = [*codes, "frame", "pts", "flags", "offset", "length", "box", "score", "digest", "source_digest"]

    def work() -> Any:
        opened = FrameStore(folder)
        held = [getattr(opened, field) for field in fields], [opened.label(column) for column in COLUMNS]
        return opened, held

    return _opened(work)


def open_list(folder: Path) -> tuple[float, float]:
    """list of paths"""

    def work() -> Any:
        paths, labels = [], []
        for line in (folder / "list.txt").read_text().splitlines():
            path, *levels = line.split()
            paths.append(path)
            labels.append([int(level) for level in levels])
        return paths, np.array(labels)

    return _opened(work)


def _write_index(folder: Path, rows: int) -> None:
    """A store without pictures, and the list that code bases keep instead: a path and twelve labels a line."""
    (folder / SHARDS).mkdir(parents=True)
    generator = np.random.default_rng(0)
    subjects = [f"SN{i:03d}" for i in range(200)]
    code = np.repeat(np.arange(200, dtype=np.int32), rows // 200)
    frame = np.tile(np.arange(rows // 200), 200)
    zeros = np.zeros(rows, np.int32)
    labels = {column: generator.integers(0, 6, rows, dtype=np.int8) for column in COLUMNS}
    columns = {
        "subject": pa.DictionaryArray.from_arrays(code, subjects),
        "sequence": pa.DictionaryArray.from_arrays(zeros, ["left"]),
        "frame": frame,
        "pts": frame / 20,
        "split": pa.DictionaryArray.from_arrays(zeros, [""]),
        "shard": pa.DictionaryArray.from_arrays(code, [f"{subject}.bin" for subject in subjects]),
        "offset": frame * 16_000,
        "length": generator.integers(15_000, 17_000, rows, dtype=np.int32),
        **{name: generator.integers(-(2**63), 2**63 - 1, rows) for name in ("digest", "source_digest")},
        **{f"box_{name}": generator.uniform(100, 400, rows).astype(np.float32) for name in ("x1", "y1", "x2", "y2")},
        "score": np.full(rows, np.nan, np.float32),
        "flags": np.zeros(rows, np.uint8),
        **labels,
    }
    pq.write_table(pa.table(columns), folder / INDEX)
    np.lib.format.open_memmap(folder / LANDMARKS, "w+", np.float32, (rows, 68, 2))
    np.lib.format.open_memmap(folder / MATRICES, "w+", np.float64, (rows, 2, 3))
    manifest = {"version": VERSION, "dataset": "disfa", "rows": rows, "label_columns": COLUMNS}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    levels = np.stack(list(labels.values()), axis=1).tolist()
    with (folder / "list.txt").open("w") as file:
        for who, number, row in zip(code, frame, levels, strict=True):
            file.write(f"data/disfa/SN{who:03d}/{number:05d}.jpg {' '.join(map(str, row))}\n")


# Reading


def _write_files(root: Path) -> None:
    """The pictures of a store as files."""
    packed = FrameStore(root)
    for row in range(len(packed)):
        path = _path(root, packed, row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed.read_bytes(row))


def _path(root: Path, packed: FrameStore, row: int) -> Path:
    _, subject, _, frame = packed.key(row)
    return root / "files" / subject / f"{frame:05d}.jpg"


def _print_reads(root: Path) -> None:
    for name, seconds in _apart(_reads, root).items():
        print(f"random {name:35}{1 / seconds:10.0f} /s")


def _reads(root: Path) -> dict[str, float]:
    packed = FrameStore(root)
    paths = [str(_path(root, packed, row)) for row in range(len(packed))]
    middle = [row for row in range(len(packed)) if None not in (packed.neighbour(row, -T), packed.neighbour(row, T))]
    rows = np.random.default_rng(0).choice(middle, 1000).tolist()

    def reads(read: Callable[[int], object], offsets: tuple[int, ...]) -> int:
        for row in rows:
            for offset in offsets:
                read(row + offset)
        return len(rows)

    def find(read: Callable[[int], object]) -> int:
        for row in rows:
            for other in (packed.neighbour(row, -T), row, packed.neighbour(row, T)):
                read(other)
        return len(rows)

    def bytes_of(row: int) -> bytes:
        with open(paths[row], "rb") as file:  # noqa: PTH123, as imread does, without the price of a Path
            return file.read()

    def picture(row: int) -> np.ndarray:
        return cv2.imread(paths[row], cv2.IMREAD_COLOR_RGB)

    return _best(
        {
            "frames, store": partial(reads, packed.read, (0,)),
            "frames, files": partial(reads, picture, (0,)),
            "triples, store": partial(find, packed.read),
            "triples, files": partial(reads, picture, (-T, 0, T)),
            "triples, store, bytes alone": partial(find, packed.read_bytes),
            "triples, files, bytes alone": partial(reads, bytes_of, (-T, 0, T)),
        }
    )


# Loading


class Files(Dataset[dict[str, Any]]):
    """What one would write: a list of paths, labels and landmarks in memory, a transform of albumentations."""

    def __init__(self, root: Path, neighbours: int) -> None:
        packed = FrameStore(root)
        self.paths = [str(_path(root, packed, row)) for row in range(len(packed))]
        self.subjects = [packed.key(row)[1] for row in range(len(packed))]
        self.landmarks = [packed.landmarks(row) for row in range(len(packed))]
        self.sources = [(packed.box[row], packed.matrix(row)) for row in range(len(packed))]
        self.labels = np.stack([packed.label(column) for column in packed.columns], axis=1).astype(np.int64)
        self.neighbours, self.laid_on = neighbours, SourceCrop(256, train=True)
        self.transform = A.Compose(
            [A.RandomCrop(224, 224), A.HorizontalFlip(p=0.5)],
            keypoint_params=A.KeypointParams("xy", remove_invisible=False),
        )

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, path: str) -> np.ndarray:
        """A picture."""
        return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)

    def __getitem__(self, row: int) -> dict[str, Any]:
        if self.neighbours:
            pictures, landmarks = self.laid_on(self._clip(row), (0, 0, row))
            pixels = {"clip": torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures])}
        else:
            moved = self.transform(image=self.read(self.paths[row]), keypoints=self.landmarks[row])
            flipped = moved["keypoints"][0, 0] > moved["keypoints"][16, 0]
            landmarks = np.asarray(moved["keypoints"][FLIP_68] if flipped else moved["keypoints"], np.float32)
            pixels = {"image": torch.from_numpy(moved["image"]).permute(2, 0, 1).contiguous()}
        return {
            **pixels,
            "landmarks": torch.from_numpy(landmarks),
            "au": torch.from_numpy((self.labels[row] >= 2).astype(np.int64)),
            "intensity": torch.from_numpy(self.labels[row]),
            "index": row,
            "path": self.paths[row],
        }

    def _clip(self, row: int) -> list[Frame]:
        """The frame and its neighbours, which are looked for on disk as AUNet's release does."""
        folder, _, name = self.paths[row].rpartition("/")
        centre = Frame(self.read(self.paths[row]), self.landmarks[row], *self.sources[row])
        clip = [centre]
        for place, offset in ((0, -self.neighbours), (2, self.neighbours)):
            path, other = f"{folder}/{int(name[:5]) + offset:05d}.jpg", row + offset
            there = os.path.exists(path) and self.paths[other] == path  # noqa: PTH110
            frame = Frame(self.read(path), self.landmarks[other], *self.sources[other]) if there else centre
            clip.insert(place, frame)
        return clip


def _packed(root: Path, neighbours: int) -> FrameDataset:
    packed = FrameStore(root)
    intensity = np.stack([packed.label(column) for column in packed.columns], axis=1).astype(np.int64)
    transform: Transform = SourceCrop(256, train=True) if neighbours else CropFlip(224, train=True)
    labels = {"au": (intensity >= 2).astype(np.int64), "intensity": intensity}
    return FrameDataset(packed, "disfa", labels, transform, seed=0, neighbours=neighbours)


class _Rows(Sampler[int]):
    """The rows of a `TrainSampler` without the epoch."""

    def __init__(self, sampler: TrainSampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[int]:
        return (row for _, row in self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


def _loader(root: Path, kind: str, neighbours: int, workers: int, collate: Any = None) -> DataLoader[dict[str, Any]]:
    data: Dataset[dict[str, Any]] = _packed(root, neighbours) if kind == "store" else Files(root, neighbours)
    samples = 512 if neighbours else 4096
    rows = np.random.default_rng(0).integers(0, len(FrameStore(root)), samples)
    sampler: Sampler[Any] = TrainSampler(rows, seed=0)
    if kind == "files":
        sampler = _Rows(TrainSampler(rows, seed=0))
    return DataLoader(data, BATCH, sampler=sampler, num_workers=workers, collate_fn=collate)


def _print_loaders(root: Path, neighbours: int) -> None:
    best = _apart(_loads, root, neighbours)
    what = "clips" if neighbours else "frames"
    for workers in (0, 1):
        own, files = best["store", workers], best["files", workers]
        print(
            f"loader with {workers} workers: store {1 / own:.0f} {what}/s and core, files {1 / files:.0f}, "
            f"ratio {files / own:.2f}"
        )
    for kind in ("store", "files"):
        stages = _apart(_stages, root, kind, neighbours)
        total = sum(stages.values())
        shares = ", ".join(f"{name} {1e6 * taken:.0f} us ({taken / total:.0%})" for name, taken in stages.items())
        print(f"{kind}: {1e6 * total:.0f} us a sample: {shares}")


def _loads(root: Path, neighbours: int) -> dict[tuple[str, int], float]:
    loaders = {(kind, n): _loader(root, kind, neighbours, n) for kind in ("store", "files") for n in (0, 1)}
    return _best({name: partial(_drain, loader) for name, loader in loaders.items()})  # type: ignore[arg-type, return-value]


def _drain(loader: DataLoader[dict[str, Any]]) -> int:
    return sum(len(batch["index"]) for batch in loader)


class _Stopwatch:
    """CPU seconds inside calls of wrapped functions; the time inside an inner one is taken off the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inner = [0.0]

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed under ``name``."""

        def timed(*arguments: Any, **keywords: Any) -> Any:
            self.inner.append(0.0)
            start = time.thread_time()
            result = function(*arguments, **keywords)
            taken = time.thread_time() - start
            self.seconds[name] += taken - self.inner.pop()
            self.inner[-1] += taken
            return result

        return timed

    @contextmanager
    def watch(self, name: str, owner: Any, attribute: str) -> Iterator[None]:
        """Time a function of a module or a class for a while."""
        with patch.object(owner, attribute, self.wrap(name, getattr(owner, attribute))):
            yield


def _stages(root: Path, kind: str, neighbours: int) -> dict[str, float]:
    """CPU seconds a sample in each stage of a loader without workers, in the best of the rounds."""
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        watch = _Stopwatch()
        loader = _loader(root, kind, neighbours, 0, watch.wrap("collate", default_collate))
        with (
            watch.watch("read", FrameStore, "read_bytes"),
            watch.watch("decode", FrameStore, "read"),
            watch.watch("read and decode", Files, "read"),
            watch.watch("augment", CropFlip, "__call__"),
            watch.watch("augment", A.Compose, "__call__"),
            watch.watch("warp", SourceCrop, "__call__"),
            watch.watch("neighbours", FrameStore, "neighbour"),
        ):
            count = watch.wrap("rest", _drain)(loader)
        stages = {name: taken / count for name, taken in watch.seconds.items()}
        if not best or sum(stages.values()) < sum(best.values()):
            best = stages
    return dict(sorted(best.items(), key=lambda item: -item[1]))


# Preparing


def _prepare(raw: Path) -> float:
    before = _memory("VmHWM")
    prepare(DISFARaw(raw), raw.with_name(f"{raw.name}-store"), progress=False)
    return _memory("VmHWM") - before


if __name__ == "__main__":
    raise SystemExit(main())

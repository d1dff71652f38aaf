import dataclasses
import filecmp
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules import prepare as prepare_module
from datamodules.align import PRESETS, Template
from datamodules.errors import DataError
from datamodules.faces import Face
from datamodules.prepare import CARRY, prepare
from datamodules.raw.disfa import DISFARaw
from datamodules.raw.records import FrameRecord
from datamodules.store import Flag, FrameStore
from datamodules.synth.disfa import write_disfa

SIDE = 32
_GEOMETRY = PRESETS["renet"].geometry
assert isinstance(_GEOMETRY, Template)
RENET = [group[0] for group in _GEOMETRY.landmarks]  # landmarks that place the crop
AT = np.array(_GEOMETRY.at) / _GEOMETRY.side  # and where it puts them, in sides of the crop


def placed(shift: float = 0.0) -> np.ndarray:
    """Landmarks for which the crop is the picture moved by ``-shift``."""
    points = np.full((68, 2), 16.0, np.float32)
    points[RENET] = AT * SIDE - 0.5 + shift
    return points


@dataclass
class Source:
    """Two subjects whose frames a test lists: number -> landmarks (None: unknown)."""

    points: dict[int, np.ndarray | None]
    numbers: list[int] = field(default_factory=list)
    missing_images: tuple[int, ...] = ()
    name: str = "toy"
    edition: str = "custom"
    release: str = ""
    licence: str = "none"
    label_columns: list[str] = field(default_factory=lambda: ["AU06"])
    expressions: tuple[str, ...] = ()
    delivers: Literal["landmarks", "box", "crop", ""] = "landmarks"
    root: Path = Path("nowhere")
    made: list[str] = field(default_factory=list)

    def check(self) -> None: ...

    def clips(self) -> list[str]:
        return ["A", "B"]

    def shard(self, clip: str) -> str:
        return clip

    def count(self, clip: str) -> int:
        return len(self.points)

    def fingerprint(self, clip: str) -> str:
        return f"{clip} {sorted(self.points)}"

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        self.made.append(clip)
        for number in self.numbers or self.points:
            image = None if number in self.missing_images else np.full((SIDE, SIDE, 3), number % 256, np.uint8)
            yield FrameRecord(clip, "T1", number, 0.0, image, self.points[number], {"AU06": 0})


def made(source: Source, out: Path, **settings: Any) -> FrameStore:
    return FrameStore(prepare(source, out, size=SIDE, progress=False, **settings).root)


def shifts(store: FrameStore) -> list[float | None]:
    """How far each crop is moved: `placed` says whose landmarks placed it."""
    moved = [-store.matrix(row)[0, 2] for row in range(len(store))]
    return [None if np.isnan(shift) else round(float(shift), 2) for shift in moved]


def same_files(first: Path, second: Path) -> bool:
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    others = sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    return names == others and all(filecmp.cmp(first / name, second / name, shallow=False) for name in names)


LOST = Flag.NO_FACE | Flag.NO_LANDMARKS


def test_unplaced_faces_borrow_the_nearest_crop(tmp_path: Path) -> None:
    points: dict[int, np.ndarray | None] = dict.fromkeys(range(60))
    points |= {3: placed(3), 9: placed(9), 40: placed(40)}
    store = made(Source(points), tmp_path / "out")
    assert shifts(store)[:60] == [
        *[3, 3, 3, 3],  # before the first that was placed: from the future
        *[3, 3, 3],  # 6 is as far from 3 as from 9: the earlier
        *[9, 9, 9],
        *[9] * 10,  # 10 to 19
        *[None] * 10,  # more than CARRY frames from 9 and from 40
        *[40] * 11,
        *[40] * 10,
        *[None] * 9,
    ]
    placeless = np.isin(np.arange(60), (3, 9, 40), invert=True)
    expected = np.where(placeless, int(LOST), 0)
    expected[[*range(20, 30), *range(51, 60)]] |= Flag.NO_IMAGE
    assert store.flags[:60].tolist() == expected.tolist()
    assert store.read(5).mean() == pytest.approx(5 * 29 / 32, abs=1)  # its own picture, moved by 3 pixels either way
    assert not store.read(25).any()
    assert np.isnan(store.landmarks(5)).all()
    assert np.isnan(store.box[5]).all()
    counts = store.manifest["counts"]
    assert (counts["pictures"], counts["faces"]) == (120, 6)
    assert counts["flags"] == {
        "NO_IMAGE": 2 * 19,
        "NO_FACE": 2 * 57,
        "NO_LANDMARKS": 2 * 57,
        "NO_LABELS": 0,
        "OCCLUDED": 0,
    }
    assert counts["labels"] == {"AU06": [0, 120, 0, 0, 0, 0, 0]}


@pytest.mark.parametrize("seed", range(3))
def test_borrowing_equals_a_search_over_all_frames(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    numbers = np.flatnonzero(generator.random(400) < 0.5)  # with gaps: what counts is the number, not the row
    known = {int(number): bool(generator.random() < 0.08) for number in numbers}
    store = made(Source({n: placed(n / 100) if own else None for n, own in known.items()}), tmp_path / "out")
    expected = []
    for number in known:
        near = [other for other, own in known.items() if own and abs(other - number) <= CARRY]
        donor = min(near, key=lambda other: (abs(other - number), other), default=None)
        expected.append(None if donor is None else donor / 100)
    assert shifts(store)[: len(known)] == expected
    assert None in expected


def test_a_face_that_cannot_place_the_crop_keeps_its_landmarks(tmp_path: Path) -> None:
    turned = placed(2)
    turned[45] = np.nan  # an eye corner that renet needs
    store = made(Source({0: placed(), 1: turned}), tmp_path / "out")
    assert store.flags[:2].tolist() == [0, Flag.NO_FACE]
    assert store.manifest["counts"]["faces"] == 2
    np.testing.assert_allclose(store.landmarks(1), turned, atol=1e-4)  # where they are in the crop of frame 0
    assert np.isfinite(store.box[1]).all()


def test_crops_are_not_borrowed_across_sequences(tmp_path: Path) -> None:
    class Sequences(Source):
        def frames(self, clip: str) -> Iterator[FrameRecord]:
            for sequence in ("T1", "T2", "T3"):
                for record in super().frames(clip):
                    points = record.landmarks if sequence == "T2" else None
                    yield dataclasses.replace(record, sequence=sequence, landmarks=points)

    store = made(Sequences({0: placed(), 1: None}), tmp_path / "out")
    assert shifts(store)[:6] == [None, None, 0, 0, None, None]


def test_dropped_failures_have_no_picture(tmp_path: Path) -> None:
    store = made(Source({0: placed(), 1: None}), tmp_path / "out", failures="drop")
    assert store.flags.tolist() == [0, LOST | Flag.NO_IMAGE] * 2
    assert shifts(store) == [0, None] * 2
    with pytest.raises(DataError, match="failures drop, now nearest"):
        made(Source({0: placed(), 1: None}), tmp_path / "out")


def test_a_missing_picture_keeps_its_row(tmp_path: Path) -> None:
    summary = prepare(
        Source({0: placed(), 1: placed(), 2: None}, missing_images=(1,)), tmp_path / "out", size=SIDE, progress=False
    )
    store = FrameStore(summary.root)
    assert store.flags[:3].tolist() == [0, LOST | Flag.NO_IMAGE, LOST]
    assert store.label("AU06").tolist() == [0] * 6
    assert shifts(store)[:3] == [0, None, 0]
    assert (store.digest != 0).tolist() == [True, False, True] * 2
    assert (summary.rows, summary.subjects, summary.detection_rate) == (6, 2, 0.5)


def test_few_pictures_are_held_while_a_face_is_sought(tmp_path: Path) -> None:
    pictures: list[weakref.ref[np.ndarray]] = []
    held = []

    class Watched(Source):
        def frames(self, clip: str) -> Iterator[FrameRecord]:
            for number, points in self.points.items():
                record = FrameRecord(clip, "T1", number, 0.0, np.zeros((SIDE, SIDE, 3), np.uint8), points)
                pictures.append(weakref.ref(record.image))  # type: ignore[arg-type]
                held.append(sum(picture() is not None for picture in pictures))
                yield record

    made(Watched({number: placed() if number in (20, 25, 26) else None for number in range(50)}), tmp_path / "out")
    assert CARRY <= max(held) <= CARRY + 2
    assert held[28] == 2  # one that is read and one that was just written: nothing waits right after a face


@pytest.mark.parametrize("numbers", [[0, 1, 1], [0, 2, 1]])
def test_keys_must_be_unique_and_in_order(tmp_path: Path, numbers: list[int]) -> None:
    source = Source({0: placed(), 1: placed(), 2: placed()}, numbers)
    with pytest.raises(DataError, match="A T1: frame 1 comes twice or out of order"):
        prepare(source, tmp_path / "out", size=SIDE, progress=False)
    assert not (tmp_path / "out").exists()


def test_the_same_command_again_does_nothing_and_another_is_refused(tmp_path: Path) -> None:
    out = made(Source({0: placed()}), tmp_path / "out").root
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = Source({0: placed()})
    assert made(again, out).root == out
    assert again.made == []
    with pytest.raises(DataError, match="size 32, now 64"):
        prepare(Source({0: placed()}), out, size=64, progress=False)
    with pytest.raises(DataError, match=r"raw \w{12}, now \w{12}"):
        prepare(Source({0: placed(), 1: placed()}), out, size=SIDE, progress=False)
    with pytest.raises(DataError, match="no frame store") as caught:
        prepare(Source({0: placed()}), tmp_path, size=SIDE, progress=False)
    assert "delete" not in caught.value.remedy  # it may be the raw data
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_finished_subjects_are_kept_until_their_raw_files_change(tmp_path: Path) -> None:
    class Failing(Source):
        def frames(self, clip: str) -> Iterator[FrameRecord]:
            if clip == "B":
                raise DataError("B is unreadable", "mend B")
            return super().frames(clip)

    with pytest.raises(DataError, match="B is unreadable"):
        prepare(Failing({0: placed()}), tmp_path / "out", size=SIDE, progress=False)
    with pytest.raises(DataError, match="size 32, now 64"):
        prepare(Source({0: placed()}), tmp_path / "out", size=64, progress=False)
    mended = Source({0: placed()})
    prepare(mended, tmp_path / "out", size=SIDE, progress=False)
    assert mended.made == ["B"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]

    with pytest.raises(DataError):
        prepare(Failing({0: placed()}), tmp_path / "other", size=SIDE, progress=False)
    changed = Source({0: placed(), 1: placed()})
    prepare(changed, tmp_path / "other", size=SIDE, progress=False)
    assert changed.made == ["A", "B"]


def test_two_preparations_of_one_folder_are_refused(tmp_path: Path) -> None:
    work = tmp_path / ".out.partial"
    work.mkdir()
    with filelock.FileLock(work / "lock"), pytest.raises(DataError, match="in use"):
        prepare(Source({0: placed()}), tmp_path / "out", size=SIDE, progress=False)


@pytest.mark.parametrize(
    "setting", [{"preset": "nobody"}, {"size": 3}, {"workers": -1}, {"failures": "guess"}, {"faces": "detected"}]
)
def test_bad_settings_are_refused(tmp_path: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        prepare(Source({0: placed()}), tmp_path / "out", **{"size": SIDE, "progress": False, **setting})
    assert list(tmp_path.iterdir()) == []


class Boxes(Source):
    """Boxes instead of landmarks, 20 pixels wide and 10 high."""

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        for record in super().frames(clip):
            box = np.array([5.5, 7.5, 25.5, 17.5], np.float32)
            yield dataclasses.replace(record, landmarks=None, box=box if record.frame == 0 else None)


def test_the_usual_preset_follows_what_is_delivered(tmp_path: Path) -> None:
    store = made(Source({0: placed()}), tmp_path / "landmarks")
    assert store.manifest["preset"]["name"] == "renet"
    store = made(Boxes({0: None, 1: None}, delivers="box"), tmp_path / "box")
    assert store.manifest["preset"]["name"] == "emotiram"
    np.testing.assert_array_equal(store.box[0], [5.5, 7.5, 25.5, 17.5])
    np.testing.assert_allclose(store.matrix(0), [[1.6, 0, -9.3], [0, 3.2, -25.7 + 1.2]], atol=1e-9)
    assert store.flags[:2].tolist() == [Flag.NO_LANDMARKS, LOST]
    store = made(Source({0: None}, delivers="crop"), tmp_path / "crop")
    assert store.manifest["preset"]["name"] == "delivered"
    assert store.flags.tolist() == [Flag.NO_LANDMARKS] * 2
    np.testing.assert_allclose(store.matrix(0), np.eye(2, 3), atol=1e-12)


@pytest.mark.parametrize(
    ("delivers", "preset", "named"),
    [
        ("crop", "renet", "landmarks"),
        ("box", "megraph", "landmarks"),
        ("crop", "aunet", "box"),
        ("crop", "emotiram", "box"),
    ],
)
def test_presets_that_need_more_than_is_given_are_refused_before_any_work(
    tmp_path: Path, delivers: Literal["box", "crop"], preset: str, named: str
) -> None:
    class Untouched(Source):
        def check(self) -> None:
            raise AssertionError

    with pytest.raises(
        DataError, match=f"preset {preset} needs {named}, but --faces dataset gives {delivers}"
    ) as caught:
        prepare(Untouched({0: None}, delivers=delivers), tmp_path / "out", preset=preset, progress=False)
    assert "--faces detect" in caught.value.remedy
    assert f"--preset {'emotiram' if delivers == 'box' else 'delivered'}" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


class Found:
    """A source of faces with a score, as detectors are."""

    gives = "landmarks"

    def facts(self) -> dict[str, Any]:
        return {"source": "detect", "detector": "toy", "versions": {"toy": "1"}, "pair": (1, 2)}

    def find(self, record: FrameRecord) -> Face | None:
        if record.frame == 1:
            return None
        return Face(np.array([1, 2, 30, 31], np.float32), 0.5 + record.frame / 10, placed())


def test_what_a_detector_says_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "face_source", lambda faces, raw, detector: Found())
    settings = {"faces": "detect", "size": SIDE, "progress": False}
    summary = prepare(Source({0: None, 1: None, 2: None}), tmp_path / "out", **settings)  # type: ignore[arg-type]
    store = FrameStore(summary.root)
    np.testing.assert_allclose(store.score[:3], [0.5, np.nan, 0.7], rtol=1e-6)
    np.testing.assert_array_equal(store.box[:3], [[1, 2, 30, 31], [np.nan] * 4, [1, 2, 30, 31]])
    assert store.manifest["faces"]["detector"] == "toy"
    assert summary.detection_rate == pytest.approx(2 / 3)
    assert set(summary.stages) == {"read", "faces", "warp", "encode"}
    assert min(summary.stages.values()) > 0
    again = prepare(Source({0: None, 1: None, 2: None}), tmp_path / "out", **settings)  # type: ignore[arg-type]
    assert again.stages == {}
    assert dataclasses.replace(again, seconds=0, stages={}) == dataclasses.replace(summary, seconds=0, stages={})
    monkeypatch.setattr(Found, "facts", lambda self: {"source": "detect", "detector": "other"})
    with pytest.raises(DataError, match=r"faces\.detector toy, now other"):
        prepare(Source({0: None, 1: None, 2: None}), tmp_path / "out", **settings)  # type: ignore[arg-type]


def test_many_subjects_share_a_shard(tmp_path: Path) -> None:
    class Stills(Source):
        """As CAER-S: a file a class, every picture its own subject, with its official part."""

        def clips(self) -> list[str]:
            return ["train_Anger", "test_Anger"]

        def frames(self, clip: str) -> Iterator[FrameRecord]:
            for number in (1, 2, 3):
                image = np.full((SIDE, SIDE, 3), 60 * (number % 3), np.uint8)
                subject = f"{clip.replace('_', '/')}/{number:04d}"
                yield FrameRecord(subject, "still", 0, np.nan, image, placed(), {"AU06": 1}, split=clip.split("_")[0])

    store = made(Stills({0: placed()}), tmp_path / "out")
    assert [store.key(row)[1] for row in (0, 3)] == ["test/Anger/0001", "train/Anger/0001"]
    assert store.splits[store.split_code].tolist() == ["test"] * 3 + ["train"] * 3
    assert store.manifest["counts"]["subjects"] == 6
    assert {name: shard["rows"] for name, shard in store.manifest["shards"].items()} == {
        "test_Anger.bin": 3,
        "train_Anger.bin": 3,
    }
    assert [int(store.read(row).mean()) for row in range(6)] == [60, 120, 0] * 2
    assert len(set(store.digest.tolist())) == 3  # the same three pictures in both parts
    assert store.digest[0] == store.digest[3]


def test_source_digests_are_of_pictures_however_cropped(tmp_path: Path) -> None:
    here = made(Source({200: placed(), 205: placed()}), tmp_path / "here")
    there = made(Source({200: placed(3), 205: None}, missing_images=(205,)), tmp_path / "there")
    assert here.source_digest[0] == there.source_digest[0] != here.source_digest[1]
    assert here.digest[0] != there.digest[0]
    assert there.source_digest[1] == 0


def test_keys_must_be_unique_across_shards(tmp_path: Path) -> None:
    class Overlapping(Source):
        def frames(self, clip: str) -> Iterator[FrameRecord]:
            for record in super().frames(clip):
                yield dataclasses.replace(record, subject="S", frame=record.frame + (clip == "B"))

    with pytest.raises(DataError, match="S T1 1: the rows of A and B overlap"):
        made(Overlapping({0: placed(), 1: placed()}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(made(Overlapping({0: placed()}), tmp_path / "apart")) == 2


def test_shards_without_rows_leave_no_file(tmp_path: Path) -> None:
    class Half(Source):
        def frames(self, clip: str) -> Iterator[FrameRecord]:
            yield from super().frames(clip) if clip == "B" else ()

    assert list(made(Half({0: placed()}), tmp_path / "out").manifest["shards"]) == ["B.bin"]
    with pytest.raises(DataError, match="no rows"):
        made(Source({}), tmp_path / "nothing")


def test_a_twin_says_what_is_expected_of_its_store(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    truth = {
        "subject": ["A", "B", "B"],
        "sequence": ["T1"] * 3,
        "frame": [0, 0, 1],
        "AU06": [1, -1, 0],
        "AU07": [0] * 3,
    }
    pq.write_table(pa.table({**truth, "AU06": pa.array(truth["AU06"], pa.int8())}), raw / "truth.parquet")
    twin = made(Source({0: placed()}, edition="twin", root=raw), tmp_path / "twin")
    assert twin.manifest["expected"] == {"rows": {"A": 1, "B": 2}, "labels": {"AU06": [1, 1, 1, 0, 0, 0, 0]}}

    class Selective(Source):
        def selects(self, sequence: str) -> bool:
            return sequence == "T1"

    truth["sequence"] = ["T1", "T2", "T1"]
    pq.write_table(pa.table({**truth, "AU06": pa.array(truth["AU06"], pa.int8())}), raw / "truth.parquet")
    part = made(Selective({0: placed()}, edition="twin", root=raw), tmp_path / "part")
    assert part.manifest["expected"] == {"rows": {"A": 1, "B": 1}, "labels": {"AU06": [0, 1, 1, 0, 0, 0, 0]}}
    custom = made(Source({0: placed()}), tmp_path / "custom")
    assert "expected" not in custom.manifest


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a full disk")
@pytest.mark.parametrize(
    "file",
    [
        "store/shards/A.bin",
        "parts/B.points",
        "parts/A.tmp",
        "store/index.parquet",
        "store/matrices.npy",
        "store/manifest.json",
        "settings.tmp",
    ],
)
def test_a_full_disk_leaves_nothing_that_looks_whole(tmp_path: Path, file: str) -> None:
    def source() -> Source:
        return Source({number: placed() for number in range(20)})

    out, work = tmp_path / "out", tmp_path / ".out.partial"
    full = work / file
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device") as caught:
        made(source(), out)
    assert str(work) in str(caught.value)
    assert "make room" in caught.value.remedy
    assert not out.exists()
    full.unlink(missing_ok=True)
    assert same_files(made(source(), out).root, made(source(), tmp_path / "undisturbed").root)


def test_killed_and_started_again_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL of the command and its two workers half-way; finished subjects are not made again."""
    write_disfa(tmp_path / "raw", subjects=5, frames=30, size=64, progress=False)
    script = Path(__file__).parents[2] / "experiments" / "prepare.py"
    command = [sys.executable, str(script), "disfa", "--raw", str(tmp_path / "raw"), "--size", "256"]
    settings: dict[str, Any] = {"size": 256, "progress": False}
    prepare(DISFARaw(tmp_path / "raw"), tmp_path / "whole", **settings)

    killed = subprocess.Popen(
        [*command, "--out", str(tmp_path / "killed"), "--workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    parts = tmp_path / ".killed.partial" / "parts"
    deadline = time.monotonic() + 60
    while not list(parts.glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed").exists()
    time.sleep(0.5)  # orphaned workers end by themselves
    finished = {path: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert 1 <= len(finished) < 5
    shards = [tmp_path / ".killed.partial" / "store" / "shards" / f"{path.stem}.bin" for path in finished]
    inodes = [shard.stat().st_ino for shard in shards]
    stamps = [shard.stat().st_mtime_ns for shard in shards]

    prepare(DISFARaw(tmp_path / "raw"), tmp_path / "killed", **settings)
    again = [tmp_path / "killed" / "shards" / shard.name for shard in shards]
    assert [shard.stat().st_ino for shard in again] == inodes
    assert [shard.stat().st_mtime_ns for shard in again] == stamps
    assert same_files(tmp_path / "whole", tmp_path / "killed")

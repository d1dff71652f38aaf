import filecmp
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import numpy as np
import pytest

from datamodules.align import PRESETS, Template
from datamodules.errors import DataError
from datamodules.prepare import CARRY, prepare
from datamodules.raw.records import FrameRecord
from datamodules.store import Flag, FrameStore
from datamodules.synth.disfa import write_disfa

SIDE = 32
_GEOMETRY = PRESETS["renet"].geometry
assert isinstance(_GEOMETRY, Template)
RENET = [group[0] for group in _GEOMETRY.landmarks]  # landmarks that place the crop
AT = np.array(_GEOMETRY.at) / _GEOMETRY.side  # and where it puts them, in sides of the crop


def placed(shift: float = 0.0) -> np.ndarray:
    points = np.full((68, 2), 16.0, np.float32)
    points[RENET] = AT * SIDE - 0.5 + shift
    return points


@dataclass
class Source:
    """One subject whose frames a test lists: number -> landmarks (None: unknown)."""

    points: dict[int, np.ndarray | None]
    numbers: list[int] = field(default_factory=list)
    missing_images: tuple[int, ...] = ()
    name: str = "toy"
    edition: str = "custom"
    licence: str = "none"
    label_columns: list[str] = field(default_factory=lambda: ["AU06"])
    made: list[str] = field(default_factory=list)

    def check(self) -> None: ...

    def clips(self) -> list[str]:
        return ["A", "B"]

    def subject(self, clip: str) -> str:
        return clip

    def count(self, clip: str) -> int:
        return len(self.points)

    def fingerprint(self, clip: str) -> str:
        return f"{clip} {sorted(self.points)}"

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        self.made.append(clip)
        for number in self.numbers or self.points:
            image = None if number in self.missing_images else np.full((SIDE, SIDE, 3), number, np.uint8)
            yield FrameRecord(clip, "T1", number, 0.0, image, self.points[number], {"AU06": 0})


def same_files(first: Path, second: Path) -> bool:
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    others = sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    return names == others and all(filecmp.cmp(first / name, second / name, shallow=False) for name in names)


def test_unplaced_faces_borrow_the_last_crop_for_a_while(tmp_path: Path) -> None:
    points: dict[int, np.ndarray | None] = {
        0: None,
        1: placed(),
        2: None,
        1 + CARRY: None,
        2 + CARRY: None,
        40: placed(),
    }
    store = FrameStore(prepare(Source(points), tmp_path / "out", size=SIDE, progress=False))
    lost = Flag.NO_FACE | Flag.NO_LANDMARKS
    assert store.flags[:6].tolist() == [lost | Flag.NO_IMAGE, 0, lost, lost, lost | Flag.NO_IMAGE, 0]
    assert store.read(2).mean() == pytest.approx(2, abs=1)  # its own picture, at the place of frame 1
    assert not store.read(0).any()
    assert np.isnan(store.landmarks(2)).all()
    assert store.manifest["counts"]["flags"]["NO_FACE"] == 2 * 4
    assert store.manifest["counts"]["labels"] == {"AU06": [0, 12, 0, 0, 0, 0, 0]}


def test_a_missing_picture_keeps_its_row_and_landmarks(tmp_path: Path) -> None:
    source = Source({0: placed(), 1: placed()}, missing_images=(1,))
    store = FrameStore(prepare(source, tmp_path / "out", size=SIDE, progress=False))
    assert store.flags[:2].tolist() == [0, Flag.NO_IMAGE]
    np.testing.assert_allclose(store.landmarks(1), placed(), atol=1e-4)


@pytest.mark.parametrize("numbers", [[0, 1, 1], [0, 2, 1]])
def test_keys_must_be_unique_and_in_order(tmp_path: Path, numbers: list[int]) -> None:
    source = Source({0: placed(), 1: placed(), 2: placed()}, numbers)
    with pytest.raises(DataError, match="A T1: frame 1 comes twice or out of order"):
        prepare(source, tmp_path / "out", size=SIDE, progress=False)
    assert not (tmp_path / "out").exists()


def test_the_same_command_again_does_nothing_and_another_is_refused(tmp_path: Path) -> None:
    out = prepare(Source({0: placed()}), tmp_path / "out", size=SIDE, progress=False)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = Source({0: placed()})
    assert prepare(again, out, size=SIDE, progress=False) == out
    assert again.made == []
    with pytest.raises(DataError, match="size 32, now 64"):
        prepare(Source({0: placed()}), out, size=64, progress=False)
    with pytest.raises(DataError, match=r"raw \w{12}, now \w{12}"):
        prepare(Source({0: placed(), 1: placed()}), out, size=SIDE, progress=False)
    with pytest.raises(DataError, match="no frame store"):
        prepare(Source({0: placed()}), tmp_path, size=SIDE, progress=False)
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


@pytest.mark.parametrize(("preset", "size", "workers"), [("nobody", None, 0), ("renet", 3, 0), ("renet", None, -1)])
def test_bad_settings_are_refused(tmp_path: Path, preset: str, size: int | None, workers: int) -> None:
    with pytest.raises(DataError):
        prepare(Source({0: placed()}), tmp_path / "out", preset, size, workers, progress=False)


def test_killed_and_started_again_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL of the command and its two workers half-way; finished subjects are not made again."""
    write_disfa(tmp_path / "raw", subjects=5, frames=30, size=64, progress=False)
    script = Path(__file__).parents[2] / "experiments" / "prepare.py"
    command = [sys.executable, str(script), "disfa", "--raw", str(tmp_path / "raw"), "--size", "256"]
    subprocess.run([*command, "--out", str(tmp_path / "whole"), "--workers", "0"], check=True, capture_output=True)

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

    subprocess.run([*command, "--out", str(tmp_path / "killed"), "--workers", "2"], check=True, capture_output=True)
    again = [tmp_path / "killed" / "shards" / shard.name for shard in shards]
    assert [shard.stat().st_ino for shard in again] == inodes
    assert [shard.stat().st_mtime_ns for shard in again] == stamps
    assert same_files(tmp_path / "whole", tmp_path / "killed")

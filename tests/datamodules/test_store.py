import hashlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from datamodules import store as store_module
from datamodules.align import PRESETS, Template
from datamodules.errors import DataError
from datamodules.prepare import prepare
from datamodules.raw.records import FrameRecord
from datamodules.store import Flag, FrameStore, Rows

SIDE = 32
_GEOMETRY = PRESETS["renet"].geometry
assert isinstance(_GEOMETRY, Template)
RENET = [group[0] for group in _GEOMETRY.landmarks]  # landmarks that place the crop
AT = np.array(_GEOMETRY.at) / _GEOMETRY.side  # and where it puts them, in sides of the crop


def landmarks(shift: float = 0.0) -> np.ndarray:
    """Landmarks that the crop moves by ``-shift``."""
    points = np.random.default_rng(0).uniform(5, 25, (68, 2)).astype(np.float32)
    points[RENET] = AT * SIDE - 0.5
    points[60] = np.nan
    return points + np.float32(shift)


def picture(subject: str, sequence: str, frame: int) -> np.ndarray:
    """Smooth, so that JPEG keeps it, and different for every key."""
    grey = 20 * (ord(subject) - ord("A")) + 7 * int(sequence[1:]) + 2 * frame
    return np.full((SIDE, SIDE, 3), (grey, 2 * grey, 255 - grey), np.uint8)


class Source:
    """Subject A: T1 frames 0-3 and 7-8, T2 frames 5-6; subject B: T1 frames 0-1, the last without labels.

    A is for training, B for nothing in particular, and his face is 3 pixels further right and down.
    """

    name = "toy"
    edition = "custom"
    release = "second"
    licence = "none"
    expressions: tuple[str, ...] = ()
    delivers: Literal["landmarks", "box", "crop", ""] = "landmarks"
    root = Path("nowhere")
    label_columns = ["AU06", "AU12_intensity"]  # noqa: RUF012
    content = {("A", "T1"): (0, 1, 2, 3, 7, 8), ("A", "T2"): (5, 6), ("B", "T1"): (0, 1)}  # noqa: RUF012

    def check(self) -> None:
        pass

    def clips(self) -> list[str]:
        return [f"{subject}_{sequence}" for subject, sequence in self.content]

    def shard(self, clip: str) -> str:
        return clip[0]

    def count(self, clip: str) -> int:
        return len(self.content[clip[0], clip[2:]])

    def fingerprint(self, clip: str) -> str:
        return clip

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        subject, sequence = clip.split("_")
        for frame in self.content[subject, sequence]:
            labelled = {"AU06": frame % 2, "AU12_intensity": frame % 6}
            labels = {} if (subject, frame) == ("B", 1) else labelled
            image = picture(subject, sequence, frame)
            points, split = (landmarks(3), "") if subject == "B" else (landmarks(), "train")
            yield FrameRecord(
                subject, sequence, frame, frame / 20, image, points, labels, occluded=frame == 8, split=split
            )


@pytest.fixture
def store(tmp_path: Path) -> FrameStore:
    return FrameStore(prepare(Source(), tmp_path / "store", size=SIDE, progress=False).root)


def test_rows_are_what_went_in(store: FrameStore) -> None:
    assert len(store) == 10
    assert store.columns == ["AU06", "AU12_intensity"]
    assert store.subjects.tolist() == ["A", "B"]
    assert store.sequences.tolist() == ["T1", "T2"]
    assert store.subject_code.tolist() == [0] * 8 + [1] * 2
    assert store.sequence_code.tolist() == [0] * 6 + [1] * 2 + [0] * 2
    assert store.frame.tolist() == [0, 1, 2, 3, 7, 8, 5, 6, 0, 1]
    np.testing.assert_allclose(store.pts, store.frame / 20)
    assert store.label("AU06").tolist() == [0, 1, 0, 1, 1, 0, 1, 0, 0, -1]
    assert store.label("AU12_intensity").dtype == np.int8
    assert store.flags.tolist() == [0] * 5 + [Flag.OCCLUDED] + [0] * 3 + [Flag.NO_LABELS]
    assert store.key(7) == ("toy", "A", "T2", 6)
    assert store.splits[store.split_code].tolist() == ["train"] * 8 + [""] * 2
    assert store.manifest["release"] == "second"


def test_every_row_says_where_its_crop_was(store: FrameStore) -> None:
    for row in range(len(store)):
        shift = 3.0 * (row >= 8)
        np.testing.assert_allclose(store.matrix(row), [[1, 0, -shift], [0, 1, -shift]], atol=1e-5)
        known = np.isfinite(landmarks()).all(axis=1)
        x1, _, x2, y2 = store.box[row]
        assert (x1, x2) == (landmarks(shift)[known, 0].min(), landmarks(shift)[known, 0].max())
        assert y2 == landmarks(shift)[known, 1].max()
    assert store.matrix(0).dtype == np.float64
    assert store.box.dtype == store.score.dtype == np.float32
    assert np.isnan(store.score).all()  # nobody scored what the dataset delivers


def test_digests_are_of_the_stored_bytes(store: FrameStore) -> None:
    for row in range(len(store)):
        digest = hashlib.blake2b(store.read_bytes(row), digest_size=8).digest()
        assert store.digest[row] == int.from_bytes(digest, "little", signed=True)
    assert len(set(store.digest.tolist())) == len(store)


def test_the_manifest_tells_what_the_store_is(store: FrameStore) -> None:
    manifest = store.manifest
    assert set(manifest) == {
        *("version", "dataset", "edition", "release", "licence", "rows", "label_columns", "aus", "expressions"),
        *("preset", "preprocessing", "faces", "raw", "counts", "shards", "tables", "settings", "created_with"),
    }
    assert manifest["preprocessing"] == PRESETS["renet"].hash
    assert {key: manifest["preset"][key] for key in ("name", "version", "size", "needs")} == {
        "name": "renet", "version": 1, "size": SIDE, "needs": "landmarks"
    }  # fmt: skip
    assert manifest["faces"]["source"] == "dataset"
    assert manifest["settings"] == {"size": SIDE, "jpeg_quality": 95, "carry": 10, "failures": "nearest"}
    assert manifest["counts"]["subjects"] == 2
    for name, facts in [(f"shards/{shard}", facts) for shard, facts in manifest["shards"].items()] + list(
        manifest["tables"].items()
    ):
        content = (store.root / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (facts["bytes"], facts["sha256"])
    assert {name: facts["rows"] for name, facts in manifest["shards"].items()} == {"A.bin": 8, "B.bin": 2}


def test_every_row_reads_its_own_picture_and_landmarks(store: FrameStore) -> None:
    for row in np.random.default_rng(0).permutation(len(store)).tolist():
        _, subject, sequence, frame = store.key(row)
        image = store.read(row)
        assert (image.shape, image.dtype) == ((SIDE, SIDE, 3), np.uint8)
        expected = picture(subject, sequence, frame).astype(int)
        inner = slice(1, -16) if subject == "B" else slice(1, -1)  # B ends in black; JPEG blends colours over 16
        assert np.abs(image[inner, inner].astype(int) - expected[inner, inner]).max() <= 3  # RGB order
        np.testing.assert_allclose(store.landmarks(row), landmarks(), atol=1e-4)


@pytest.mark.parametrize(
    ("row", "offset", "expected"),
    [(0, 1, 1), (0, -1, None), (3, 1, None), (3, 4, 4), (4, -4, 3), (5, 1, None), (6, 1, 7), (7, 1, None), (8, 0, 8)],
)
def test_neighbours_are_found_by_frame_number_within_the_sequence(
    store: FrameStore, row: int, offset: int, expected: int | None
) -> None:
    assert store.neighbour(row, offset) == expected


def test_pickling_carries_the_path_alone(store: FrameStore) -> None:
    store.read(0)
    copy = pickle.loads(data := pickle.dumps(store))
    assert len(data) < 500
    assert not copy._descriptors
    np.testing.assert_array_equal(copy.read(5), store.read(5))


def test_opening_reads_nothing(tmp_path: Path) -> None:
    assert FrameStore(tmp_path / "not there").root.name == "not there"


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_descriptors_are_few_and_given_back(store: FrameStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_OPEN_SHARDS", 1)
    before = descriptors()
    copy = FrameStore(store.root)
    for row in (0, 9, 1, 8):  # to and fro between two shards
        copy.read(row)
    assert descriptors() == before + 1
    del copy
    assert descriptors() == before


def test_an_unknown_label_is_named_with_the_choice(store: FrameStore) -> None:
    with pytest.raises(DataError, match="AU26") as caught:
        store.label("AU26")
    assert "AU12_intensity" in caught.value.remedy


def test_a_cut_shard_is_an_error_not_a_wrong_picture(store: FrameStore) -> None:
    shard = store.root / "shards" / "A.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-3])
    store.read(0)
    with pytest.raises(DataError, match=r"A\.bin is cut short"):
        store.read(7)
    shard.write_bytes(content[: store.offset[7]] + bytes(len(content)))
    with pytest.raises(DataError, match="no JPEG"):
        FrameStore(store.root).read(7)


def test_only_stores_pass_the_root_check(store: FrameStore, tmp_path: Path) -> None:
    FrameStore.check_root(store.root)
    for root, named in ((tmp_path / "nowhere", "nowhere"), (tmp_path, "manifest.json")):
        with pytest.raises(DataError, match=named):
            FrameStore.check_root(root)
    manifest = store.root / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(values | {"version": 99}))
    with pytest.raises(DataError, match="version 99"):
        FrameStore.check_root(store.root)
    (store.root / "matrices.npy").unlink()  # as in a store of an older version, which is named first
    with pytest.raises(DataError, match="version 99"):
        FrameStore.check_root(store.root)
    manifest.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"matrices\.npy"):
        FrameStore.check_root(store.root)
    manifest.write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        FrameStore.check_root(store.root)


def test_pictures_are_plain_jpeg_files_side_by_side(store: FrameStore) -> None:
    content = (store.root / "shards" / "A.bin").read_bytes()
    assert content[:3] == b"\xff\xd8\xff"
    assert len(content) == store.length[:8].sum()
    second = cv2.imdecode(np.frombuffer(content[store.offset[1] :], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(second, store.read(1))


def test_videos_are_numbered_in_the_order_of_rows(tiny_disfa: Path) -> None:
    store = FrameStore(tiny_disfa)
    assert store.clip_code.tolist() == [k for k in range(7) for _ in range(6)]
    both = Rows([("one", store), ("two", store)])
    assert len(both) == 84
    assert both.video[41:43].tolist() == [6, 7]
    assert both.dataset[[41, 42]].tolist() == [0, 1]
    assert both.key(50) == ("two", *store.key(8)[1:])

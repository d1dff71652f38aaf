"""Faces that need no detector: what a dataset delivers, and a twin's truth."""

import pickle
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.align import face_box
from datamodules.errors import DataError
from datamodules.faces import face_source
from datamodules.faces.tracking import DetectedFaces
from datamodules.raw.records import FrameRecord
from datamodules.synth.twin import TruthRow, write_twin

POINTS = np.random.default_rng(0).uniform(10, 40, (68, 2)).astype(np.float32)
KEYS = {"source", "detector", "landmarks", "versions", "licences", "rule"}
RECORD = FrameRecord("s", "a", 3, float("nan"), np.zeros((48, 64, 3), np.uint8), None)


class Raw:
    name = "bp4d"

    def __init__(self, delivers: str = "", root: Path = Path("nowhere")) -> None:
        self.delivers, self.root = delivers, root


def source(faces: Any, raw: Raw, **settings: str) -> Any:
    return face_source(faces, raw, **settings)  # type: ignore[arg-type]


def test_delivered_landmarks_come_with_a_box_about_them() -> None:
    points = POINTS.copy()
    points[60] = np.nan
    faces = source("dataset", Raw("landmarks"))
    face = faces.find(replace(RECORD, landmarks=points))
    assert faces.gives == "landmarks"
    np.testing.assert_array_equal(face.landmarks, points)
    np.testing.assert_array_equal(face.box, face_box(points))
    assert np.isnan(face.score)
    assert faces.find(RECORD) is None
    assert faces.find(replace(RECORD, landmarks=np.full((68, 2), np.nan, np.float32))) is None
    assert faces.find(replace(RECORD, landmarks=points, image=None)) is None


def test_delivered_boxes_pass_as_they_are() -> None:
    box = np.array([1, 2, 30, 40], np.float32)
    faces = source("dataset", Raw("box"))
    face = faces.find(replace(RECORD, box=box))
    assert faces.gives == "box"
    np.testing.assert_array_equal(face.box, box)
    assert face.landmarks is None
    assert faces.find(RECORD) is None


def test_a_delivered_crop_reaches_from_edge_to_edge() -> None:
    faces = source("dataset", Raw("crop"))
    assert faces.gives == "crop"
    np.testing.assert_array_equal(faces.find(RECORD).box, [-0.5, -0.5, 63.5, 47.5])  # 64 wide, 48 high
    assert faces.find(replace(RECORD, image=None)) is None


def test_where_nothing_is_delivered_detection_is_suggested() -> None:
    with pytest.raises(DataError, match="bp4d delivers no landmarks") as error:
        source("dataset", Raw())
    assert "--faces detect" in error.value.remedy


def test_truth_is_found_by_subject_sequence_and_frame(tmp_path: Path) -> None:
    def write(folder: Path, piece: str, tick: Any) -> list[TruthRow]:
        return [TruthRow("s", "a", frame, points, True, {"AU01": 0}) for frame, points in ((3, POINTS), (4, None))]

    twin = write_twin(tmp_path / "twin", ["s"], write, total=2, workers=0, progress=False, description="")
    faces = pickle.loads(pickle.dumps(source("truth", Raw(root=twin))))
    face = faces.find(RECORD)
    assert faces.gives == "landmarks"
    np.testing.assert_array_equal(face.landmarks, POINTS)
    np.testing.assert_array_equal(face.box, face_box(POINTS))
    assert faces.find(replace(RECORD, frame=4)) is None  # no landmarks in the truth
    assert faces.find(replace(RECORD, frame=5)) is None  # not in the truth
    assert faces.find(replace(RECORD, sequence="b")) is None
    assert faces.find(replace(RECORD, image=None)) is None


def test_only_twins_have_a_truth(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"truth\.parquet is missing"):
        source("truth", Raw("landmarks", tmp_path))


def test_faces_are_told_with_their_origin() -> None:
    delivered = source("dataset", Raw("box")).facts()
    assert delivered.keys() == KEYS
    assert (delivered["source"], delivered["detector"], delivered["landmarks"]) == ("dataset", None, None)


@pytest.mark.skipif(find_spec("dlib") is None, reason="dlib is not installed (extra faces)")
def test_detected_faces_are_told_with_their_licence() -> None:
    detected = source("detect", Raw())
    assert isinstance(detected, DetectedFaces)
    assert detected.gives == "landmarks"
    facts = detected.facts()
    assert facts.keys() == KEYS
    assert facts["versions"]["face_recognition_models"] == "0.3.0"
    assert "300-W" in facts["licences"]["68-point model"]

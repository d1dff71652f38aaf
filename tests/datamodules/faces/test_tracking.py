"""Which of several faces is meant, and that it stays the same one: worked out by hand with a made-up detector."""

import pickle
from typing import Any, Literal

import numpy as np
import pytest

from datamodules.faces.detectors import Face
from datamodules.faces.tracking import LOST, DetectedFaces
from datamodules.raw.records import FrameRecord

WIDTH, HEIGHT = 1000, 600
Box = tuple[int, int, int, int]

BIG: Box = (600, 200, 800, 400)
SMALL: Box = (100, 200, 250, 350)
TINY: Box = (10, 10, 80, 80)  # a fourteenth of the width


def face(box: Box, landmarks: np.ndarray | None = None) -> Face:
    """A face that looks straight ahead and fills its box, or with other points in the unit square."""
    if landmarks is None:
        landmarks = np.full((68, 2), 0.5)
        landmarks[36:42], landmarks[42:48], landmarks[48:68] = (0.3, 0.4), (0.7, 0.4), (0.5, 0.75)
    corners = np.array(box, np.float32).reshape(2, 2)
    return Face(corners.ravel(), 1.0, (corners[0] + landmarks * (corners[1] - corners[0])).astype(np.float32))


class Fake:
    """Sees the faces that a test lists for each frame (the picture's first value is its number), where it looks."""

    name = "fake"

    def __init__(self, *frames: list[Face]) -> None:
        self.frames = frames
        self.looked: list[tuple[list[float], float]] = []

    def check(self) -> None:
        pass

    def facts(self) -> dict[str, Any]:
        return {"detector": "fake"}

    def faces(self, image: np.ndarray, region: np.ndarray, smallest: float) -> list[Face]:
        self.looked.append((region.tolist(), smallest))
        seen = []
        for one in self.frames[image[0, 0, 0]]:
            inside = (one.box[:2] >= region[:2]).all() and (one.box[2:] <= region[2:]).all()
            if inside and one.box[2] - one.box[0] >= smallest:
                seen.append(one)
        return seen


def record(
    frame: int, picture: int | None = None, sequence: str = "a", side: Literal["", "left", "right"] = ""
) -> FrameRecord:
    image = np.full((HEIGHT, WIDTH, 3), frame if picture is None else picture, np.uint8)
    return FrameRecord("s", sequence, frame, float("nan"), image, None, side=side)


def follow(*frames: list[Face], side: Literal["", "left", "right"] = "") -> list[Box | None]:
    source = DetectedFaces(Fake(*frames))
    return boxes([source.find(record(k, side=side)) for k in range(len(frames))])


def boxes(faces: list[Face | None]) -> list[Box | None]:
    return [None if one is None else tuple(one.box.astype(int).tolist()) for one in faces]


def test_the_largest_face_is_followed_though_a_larger_one_comes() -> None:
    larger: Box = (200, 50, 500, 350)
    moved: Box = (640, 200, 840, 400)  # by a fifth of its side
    assert follow([face(SMALL), face(BIG)], [face(larger), face(moved)], [face(larger)]) == [BIG, moved, None]


def test_of_equal_faces_the_left_one_whatever_order_they_come_in() -> None:
    left, right = face((100, 100, 300, 300)), face((500, 100, 700, 300))
    assert follow([right, left]) == follow([left, right]) == [(100, 100, 300, 300)]


def test_who_overlaps_most_is_the_same_person() -> None:
    near, far = (620, 200, 820, 400), (680, 200, 880, 400)  # 18/22 and 12/28 of the union are shared
    assert follow([face(BIG)], [face(far), face(near)]) == [BIG, near]
    assert follow([face(BIG)], [face(far)]) == [BIG, far]
    gone = (680, 280, 880, 480)  # still where it is looked for, but 36/164 = 0.22
    assert follow([face(BIG)], [face(gone)]) == [BIG, None]


def test_a_lost_face_is_waited_for_and_then_the_rule_begins_anew() -> None:
    nobody: list[Face] = [face(SMALL)]
    late = follow([face(BIG)], *[nobody] * LOST, nobody, [face(BIG), face(SMALL)])
    assert late == [BIG, *[None] * LOST, SMALL, SMALL]
    in_time = follow([face(BIG)], *[nobody] * (LOST - 1), [face(BIG), face(SMALL)], nobody)
    assert in_time == [BIG, *[None] * (LOST - 1), BIG, None]


def test_frames_without_a_picture_pass_too() -> None:
    source = DetectedFaces(Fake([face(BIG), face(SMALL)], [face(SMALL)]))
    assert boxes([source.find(record(0))]) == [BIG]
    missing = FrameRecord("s", "a", LOST, float("nan"), None, None)
    assert source.find(missing) is None
    assert boxes([source.find(record(LOST + 1, picture=1))]) == [SMALL]


def test_a_sequence_depends_on_its_own_frames_alone() -> None:
    frames = [[face(BIG), face(SMALL)], [face(BIG), face(SMALL)], [face(SMALL)]]
    source = DetectedFaces(Fake(*frames))
    assert boxes([source.find(record(k)) for k in range(3)]) == [BIG, BIG, None]
    # Another sequence, the same one once more, and a copy in another process do not know of what was followed.
    assert boxes([source.find(record(5, picture=2, sequence="b"))]) == [SMALL]
    assert boxes([source.find(record(k)) for k in range(3)]) == [BIG, BIG, None]
    assert boxes([source.find(record(2))]) == [SMALL]
    copy = pickle.loads(pickle.dumps(source))
    assert boxes([source.find(record(3, picture=0)), copy.find(record(3, picture=0))]) == [SMALL, BIG]


@pytest.mark.parametrize(("side", "chosen"), [("left", SMALL), ("right", BIG)])
def test_sides_are_those_of_the_two_largest(side: Literal["left", "right"], chosen: Box) -> None:
    third = (0, 0, 130, 130)  # further left, but smaller
    assert follow([face(third), face(BIG), face(SMALL)], side=side) == [chosen]


def test_a_single_face_is_of_the_side_on_which_it_lies() -> None:
    assert follow([face(SMALL)], side="left") == [SMALL]
    assert follow([face(SMALL)], side="right") == [None]
    assert follow([face(BIG)], side="right") == [BIG]


def test_what_a_finer_search_misses_is_kept() -> None:
    class Coarse(Fake):
        def faces(self, image: np.ndarray, region: np.ndarray, smallest: float) -> list[Face]:
            return super().faces(image, region, smallest) if smallest > WIDTH / 10 else []

    assert boxes([DetectedFaces(Coarse([face(SMALL)])).find(record(0, side="left"))]) == [SMALL]


def test_a_whole_picture_is_searched_finer_only_when_needed() -> None:
    detector = Fake([face(BIG), face(TINY)], [face(TINY)])
    assert boxes([DetectedFaces(detector).find(record(0))]) == [BIG]
    whole = [-0.5, -0.5, WIDTH - 0.5, HEIGHT - 0.5]
    assert detector.looked == [(whole, WIDTH / 8)]
    assert boxes([DetectedFaces(detector).find(record(1))]) == [TINY]
    assert detector.looked[1:] == [(whole, WIDTH / 8), (whole, WIDTH / 16)]
    # Two persons in question: one at the coarse size is not enough.
    assert boxes([DetectedFaces(detector).find(record(0, side="left"))]) == [TINY]


def test_a_followed_face_is_searched_around_itself_and_finer_only_when_needed() -> None:
    shrunk: Box = (630, 230, 770, 370)  # 0.7 of the side, 0.49 of the area
    detector = Fake([face(BIG)], [face(BIG)], [face(shrunk)])
    source = DetectedFaces(detector)
    assert boxes([source.find(record(k)) for k in range(3)]) == [BIG, BIG, shrunk]
    around = [500.0, 100.0, 900.0, 500.0]  # twice the box
    assert detector.looked[1:] == [(around, 150.0), (around, 150.0), (around, 100.0)]


@pytest.mark.parametrize("fault", ["upside down", "no width", "unknown", "outside"])
def test_what_has_no_face_is_none(fault: str) -> None:
    assert face(BIG).landmarks is not None
    points = np.full((68, 2), 0.5)
    points[36:42], points[42:48], points[48:68] = (0.3, 0.4), (0.7, 0.4), (0.5, 0.75)
    if fault == "upside down":
        points[:, 1] = 1 - points[:, 1]
    elif fault == "no width":
        points[36:48, 0] = 0.5
    elif fault == "unknown":
        points[8] = np.nan
    else:
        points += 1
    assert follow([face(SMALL), face(BIG, points)]) == [SMALL]
    assert follow([face(BIG)], [face(BIG, points)]) == [BIG, None]


def test_the_rule_is_told() -> None:
    facts = DetectedFaces(Fake()).facts()
    assert facts["source"] == "detect"
    assert facts["detector"] == "fake"
    assert "largest face" in facts["rule"]
    assert f"more than {LOST} frames" in facts["rule"]

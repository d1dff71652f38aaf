import dataclasses
import hashlib
from importlib.resources import files

import numpy as np
import pytest

from datamodules.known import Known, load_known, within
from datamodules.splits import load_folds

FILES = [entry.name for entry in (files("datamodules") / "known").iterdir() if entry.name.endswith(".yaml")]
DATASETS = sorted(name.removesuffix(".yaml") for name in FILES)


def frames(ranges: list[tuple[int, int]]) -> set[int]:
    return {frame for first, last in ranges for frame in range(first, last + 1)}


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_number_has_a_source(dataset: str) -> None:
    known = load_known(dataset)
    empty = Known(dataset)
    for field in dataclasses.fields(Known):
        if field.name in ("dataset", "sources", "least", "tolerance"):
            continue
        said = getattr(known, field.name) != getattr(empty, field.name)
        assert said == (field.name in known.sources), field.name
    assert all(bad.source and bad.what for bad in known.bad_frames)


@pytest.mark.parametrize("dataset", DATASETS)
def test_ranges_are_sorted_and_disjoint(dataset: str) -> None:
    known = load_known(dataset)
    every = [bad.frames for bad in known.bad_frames]
    every += [ranges for places in known.missing.values() for ranges in places.values()]
    for ranges in every:
        ends = [end for pair in ranges for end in pair]
        assert ends == sorted(ends)
        assert len(frames(ranges)) == sum(last - first + 1 for first, last in ranges)


@pytest.mark.parametrize("dataset", DATASETS)
def test_totals_agree_with_each_other(dataset: str) -> None:
    known = load_known(dataset)
    if known.rows:
        assert sum(known.rows.values()) == known.total
        assert sorted(known.rows) == known.subjects
    if known.sequence_rows:
        assert sum(known.sequence_rows.values()) == known.total
    if known.subjects:
        assert len(known.subjects) == known.persons
        assert known.subjects == sorted(set(known.subjects))
    for column, total in known.positives.items():
        assert sum(part.positives[column] for part in known.parts.values()) == total


@pytest.mark.parametrize("dataset", ["bp4d", "disfa"])
def test_class_weights_published_for_the_folds_follow(dataset: str) -> None:
    """ME-GraphAU's files: (1 / rate) / sum(1 / rate) * AUs over the training rows; its fold 1 tests on part 3."""
    published = {
        ("bp4d", 3): "1.342985 1.689665 1.248091 0.561356 0.433044 0.435894 "
        "0.457287 0.541004 1.408054 0.722762 1.493145 1.666711",
        ("bp4d", 2): "1.191051 1.337315 1.246995 0.558933 0.468168 0.418041 "
        "0.440099 0.581900 1.670360 0.774237 1.586367 1.726535",
        ("bp4d", 1): "1.132895 1.519623 1.308560 0.552098 0.507140 0.443118 "
        "0.474432 0.535111 1.496040 0.749851 1.582501 1.698632",
        ("disfa", 3): "1.422290 2.347771 0.399672 0.795021 1.878217 0.440125 0.195583 0.521322",
        ("disfa", 2): "1.390215 1.469573 0.527298 1.034498 1.672842 0.656650 0.303915 0.945009",
        ("disfa", 1): "1.510590 1.560063 0.475896 0.884891 1.656857 0.570937 0.277589 1.063177",
    }
    known = load_known(dataset)
    for held_out in (1, 2, 3):
        train = np.array(
            [total - known.parts[held_out].positives[column] for column, total in known.positives.items()], float
        )
        weights = (1 / train) / np.sum(1 / train) * len(train)
        expected = [float(weight) for weight in published[dataset, held_out].split()]
        np.testing.assert_allclose(weights, expected, rtol=0, atol=5.1e-7)


def test_parts_are_those_of_the_published_lists() -> None:
    bp4d = load_known("bp4d")
    lists = {
        1: "F001 M007 F018 F008 F002 M004 F010 F009 M012 M001 F016 M014 F023 M008",
        2: "M011 F003 M010 M002 F005 F022 M018 M017 F013 M016 F020 F011 M013 M005",
        3: "F007 F015 F006 F019 M006 M009 F012 M003 F004 F021 F017 M015 F014",
    }
    for number, names in lists.items():
        assert bp4d.parts[number].rows == sum(bp4d.rows[name] for name in names.split())
        assert bp4d.parts[number].digest == _digest(names.split())
    disfa = load_known("disfa")
    for number, subjects in load_folds("disfa").items():
        assert disfa.parts[number].rows == sum(disfa.rows[subject] for subject in subjects)
        assert disfa.parts[number].digest == _digest(subjects)


def _digest(names: list[str]) -> str:
    return hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("dataset", "frame_set", "left", "beyond"),
    [("bp4d", "jaanet", 146_576, 0), ("bp4d", "aunet", 146_538, 0), ("disfa", "jaanet", 126_144, 1)],
)
def test_frame_sets_leave_the_published_number_of_frames(dataset: str, frame_set: str, left: int, beyond: int) -> None:
    known = load_known(dataset)
    gone = sum(len(frames(ranges)) for ranges in known.missing[frame_set].values())
    assert known.total is not None
    assert known.total - gone + beyond == left  # one listed frame of SN010 lies behind its last label row


def test_frame_sets_of_the_parts_of_bp4d() -> None:
    known = load_known("bp4d")
    members = {"F018": 1, "M014": 1, "F023": 1, "M010": 2, "M017": 2}
    left = {name: {1: 50631, 2: 50182, 3: 46034} for name in ("jaanet", "aunet")}
    for name, places in known.missing.items():
        for where, ranges in places.items():
            left[name][members.get(where[:4], 3)] -= len(frames(ranges))
    assert left == {"jaanet": {1: 50601, 2: 50166, 3: 45809}, "aunet": {1: 50589, 2: 50154, 3: 45795}}


def test_frames_of_a_set_by_subject_and_by_sequence() -> None:
    numbers = np.array([398, 396, 397, 419, 420])
    left_out = load_known("disfa").left_out("jaanet", "SN001", "left", numbers)
    assert left_out.tolist() == [True, False, True, True, False]
    bp4d = load_known("bp4d")
    assert bp4d.left_out("jaanet", "F021", "T3", np.array([222, 223])).tolist() == [False, True]
    assert not bp4d.left_out("jaanet", "F021", "T4", np.array([223])).any()


def test_within_includes_both_ends() -> None:
    assert within(np.array([1, 2, 3, 4, 5, 9]), [(2, 3), (5, 5)]).tolist() == [False, True, True, False, True, False]


def test_nothing_is_known_about_synthetic_data() -> None:
    assert load_known("synth_facs") == Known("synth_facs")


def test_boxes_of_caer_s_add_up() -> None:
    boxed = load_known("caer_s").boxed
    for side, total in (("train", 47_966), ("test", 20_868)):
        assert sum(count for name, count in boxed.items() if name.startswith(side)) == total

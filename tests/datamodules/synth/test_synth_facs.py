import pickle

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.synth.clips import render_clip
from datamodules.synth.synth_facs import SynthFACSSource


def test_one_clip_a_subject() -> None:
    source = SynthFACSSource(subjects=3, frames=2, size=32)
    assert source.clips() == ["S0001", "S0002", "S0003"]
    assert [source.shard(clip) for clip in source.clips()] == source.clips()
    assert source.count("S0002") == 2


def test_records_carry_the_rendered_frames() -> None:
    source = pickle.loads(pickle.dumps(SynthFACSSource(subjects=3, frames=2, size=32, stride=40, seed=9)))
    records = list(source.frames("S0003"))
    rendered = list(render_clip(3, 2, seed=9, size=32, rates="balanced", stride=40))
    assert [(r.subject, r.sequence, r.frame, r.pts) for r in records] == [
        ("S0003", "S0003", 0, 0.0),
        ("S0003", "S0003", 40, 2.0),
    ]
    for record, frame in zip(records, rendered, strict=True):
        np.testing.assert_array_equal(record.image, frame.image)
        np.testing.assert_array_equal(record.landmarks, frame.landmarks)
        assert list(record.labels) == source.label_columns
        assert list(record.labels.values()) == list(frame.intensity.values())


def test_subjects_do_not_depend_on_how_many_there_are() -> None:
    few, many = SynthFACSSource(subjects=2, frames=1, size=32), SynthFACSSource(subjects=50, frames=1, size=32)
    np.testing.assert_array_equal(next(few.frames("S0002")).image, next(many.frames("S0002")).image)


@pytest.mark.parametrize(
    "wrong", [{"subjects": 0}, {"frames": 0}, {"seed": -1}, {"size": 8}, {"stride": 0}, {"rates": "even"}]
)
def test_impossible_settings_are_refused_by_name(wrong: dict) -> None:
    with pytest.raises(DataError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        SynthFACSSource(**wrong).check()


def test_an_unknown_clip_is_refused() -> None:
    with pytest.raises(DataError, match="no clip SN001"):
        next(SynthFACSSource().frames("SN001"))

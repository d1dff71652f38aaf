import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.synth.clips import SYNTH_AUS
from experiments.audit import chance_band, linear_scores, main


def test_a_tiny_audit_prints_every_au_and_claim(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--subjects", "9", "--frames", "3", "--size", "32", "--epochs", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("AU") and line[2].isdigit()] == [
        f"AU{au:02d}" for au in SYNTH_AUS
    ]
    claims = [line.split()[0] for line in lines if line.startswith(("holds", "FAILS"))]
    assert len(claims) == 6
    assert code == int("FAILS" in claims)


def test_settings_without_anything_to_measure_are_refused() -> None:
    with pytest.raises(DataError, match="subjects"):
        main(["--subjects", "1"])


def test_linear_scores_find_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    true = rng.random((600, 2)) < 0.3
    features = np.column_stack([true[:, 0] + 0.5 * rng.standard_normal(600), rng.standard_normal((600, 3))])
    told, untold = linear_scores(features, true, np.arange(600) // 6, true)
    assert told > 0.85
    assert abs(untold - 0.5) < 0.15


def test_chance_is_wider_when_a_subjects_frames_are_alike() -> None:
    subject = np.arange(600) // 12
    rng = np.random.default_rng(0)
    alike = (rng.random(50) < 0.3)[subject][:, None]
    unlike = (rng.random(600) < 0.3)[:, None]
    assert chance_band(alike, subject)[0] > 2 * chance_band(unlike, subject)[0]

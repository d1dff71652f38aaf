"""What many runs together say: parameters of a sweep, and scores across datasets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import f1_score

from experiments.comparison import Pair, groups
from experiments.evaluation import evaluate
from experiments.ledgers import load_experiment
from experiments.many_runs import cross_dataset_section, importance_section, parameters, trained_and_tested, varied

Writer = Callable[..., Any]


def pair_of(path: Path) -> Pair:
    experiment = load_experiment(path)
    return experiment, evaluate(experiment, resamples=50)


def occurrence(ledger: dict[str, Any]) -> dict[str, Any]:
    return {key: values for key, values in ledger.items() if "level" not in key}


def settings(fold: int, **arguments: Any) -> dict[str, Any]:
    return {
        "seed_everything": 0,
        "trainer": {"devices": fold, "max_epochs": 5, "precision": None},
        "model": {"class_path": "lightning_modules.RENet", "init_args": {"seed": 0, **arguments}},
        "data": {"class_path": "datamodules.disfa.DISFA", "init_args": {"fold": fold, "root": f"data{fold}"}},
        "run": {"name": str(arguments), "refit": False},
    }


# -------------------------------------------------------------------------------------------------------- parameters


def test_what_of_the_settings_is_a_parameter() -> None:
    checkpoint = "runs/fan/fold{}-seed0/checkpoints/best.ckpt"
    first = settings(1, lr=0.1, fan_checkpoint=checkpoint.format(1))
    second = settings(2, lr=0.2, fan_checkpoint=checkpoint.format(2), width=64)
    found = {name: values for name, values in parameters([first, second]).items() if len(set(values)) > 1}
    assert found == {"model.lr": ["0.1", "0.2"], "model.width": ["unset", "64"]}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, write_fold: Writer, random_ledger: Writer) -> Path:
    """Two learning rates by two widths by two folds; the learning rate makes the scores, the width does little."""
    root = tmp_path_factory.mktemp("sweep")
    for rate, skill in ((0.001, 2.6), (0.01, 1.2)):
        for width in (64, 128):
            for fold in (1, 2):
                ledger = occurrence(random_ledger(fold, skill=skill, seed=width))
                path = write_fold(root / f"lr{rate}-w{width}", fold, ledger, label_threshold=1)
                (path / "config.yaml").write_text(yaml.safe_dump(settings(fold, lr=rate, width=width)))
    return root


def test_importance_of_a_sweep(sweep: Path, tmp_path: Path) -> None:
    pairs = [pair_of(path) for path in sorted(sweep.iterdir())]
    section = importance_section(groups(pairs))
    assert section is not None
    (table,) = section.tables
    assert table.caption == "disfa, 4 settings, 8 trials: range of marginal means, each over a full grid of all others"

    def f1(path: Path) -> float:
        ledger = pd.read_parquet(path / "predictions.parquet")
        values = []
        for au in ("AU06", "AU12"):
            known = ledger[ledger[f"{au}_true"] >= 0]
            values.append(f1_score(known[f"{au}_true"], known[f"{au}_prob"] >= 0.5))
        return float(np.mean(values))

    means = [np.mean([f1(path) for path in sweep.glob(f"lr{rate}-*/fold*")]) for rate in (0.001, 0.01)]
    assert table.rows[0] == [
        "model.lr",
        f"{100 * abs(means[0] - means[1]):.2f}",
        f"0.001: {100 * means[0]:.1f}, 0.01: {100 * means[1]:.1f}",
    ]
    assert {row[0] for row in table.rows} == {"model.lr", "model.width", "fold"}
    assert section.pictures[0].png.startswith(b"\x89PNG")
    assert varied([experiment for experiment, _ in pairs])["lr0.01-w128"] == {"model.lr": "0.01", "model.width": "128"}


def test_a_sweep_that_is_too_small_says_so(sweep: Path, tmp_path: Path, write_fold: Writer) -> None:
    three = [pair_of(path) for path in sorted(sweep.iterdir())][:3]
    section = importance_section(groups(three))
    assert section is not None
    assert section.tables[0].rows[0][0] == "variant"  # in two folds each
    alone = importance_section(groups(three[:1]))
    assert alone is None
    ledger = pd.read_parquet(sweep / "lr0.01-w64" / "fold1-seed0" / "predictions.parquet")
    for name in ("x", "y"):
        write_fold(tmp_path / name, 1, ledger)
    section = importance_section(groups([pair_of(tmp_path / name) for name in ("x", "y")]))
    assert section is not None
    assert section.text[1] == f"disfa, 2 settings: not told, since {tmp_path / 'x' / 'fold1-seed0'} has no config.yaml."


# ----------------------------------------------------------------------------------------------------- cross-dataset


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"dataset": "disfa"}, ("disfa", "disfa")),
        ({"dataset": "disfa", "trained_on": "bp4d", "checkpoint": "x.ckpt"}, ("bp4d", "disfa")),
        ({"dataset": "disfa", "trained_on": "mixture(bp4d+affwild2)", "checkpoint": "x"}, ("bp4d+affwild2", "disfa")),
        ({"dataset": "disfa", "checkpoint": "x.ckpt"}, ("unknown", "disfa")),
        ({"dataset": "mixture(bp4d -> disfa)"}, ("bp4d", "disfa")),
        ({"dataset": "mixture(bp4d+affwild2 -> disfa)"}, ("bp4d+affwild2", "disfa")),
        ({"dataset": "mixture(bp4d+disfa) on disfa"}, ("bp4d+disfa", "disfa")),
        ({"dataset": "mixture(bp4d -> disfa+affwild2)"}, None),
        ({"dataset": "mixture(bp4d+disfa)"}, None),
    ],
)
def test_who_trained_and_who_is_tested(
    tmp_path: Path, write_fold: Writer, facts: dict[str, Any], expected: Any
) -> None:
    write_fold(tmp_path / "run", 1, {"subject": ["a"], "AU01_true": [1], "AU01_prob": [1.0]}, **facts)
    assert trained_and_tested(load_experiment(tmp_path / "run")) == expected


def test_matrix_across_datasets(tmp_path: Path, write_fold: Writer, random_ledger: Writer) -> None:
    """BP4D and DISFA within, and from BP4D to DISFA twice; they share AU 12."""
    bp4d, disfa, crossed = (
        occurrence(random_ledger(fold, aus)) for fold, aus in ((1, (7, 12)), (2, (12, 25)), (2, (12,)))
    )
    write_fold(tmp_path / "bp4d", 1, bp4d, dataset="bp4d", **{"class": "RENet"})
    write_fold(tmp_path / "disfa", 1, disfa, dataset="disfa", **{"class": "RENet"})
    cross = {"dataset": "disfa", "checkpoint": "b.ckpt", "trained_on": "bp4d"}
    write_fold(tmp_path / "cross", 1, crossed, **cross, **{"class": "RENet"})
    write_fold(tmp_path / "again", 1, crossed, **cross, **{"class": "RENet"})
    section = cross_dataset_section([pair_of(tmp_path / name) for name in ("bp4d", "disfa", "cross", "again")])
    assert section is not None
    (table,) = section.tables
    assert table.header == ["trained on", "model", "bp4d", "disfa", "runs"]
    assert [[row[0], row[1], row[4]] for row in table.rows] == [
        ["bp4d", "RENet", "bp4d, cross"],
        ["bp4d", "RENet", "again"],
        ["disfa", "RENet", "disfa"],
    ]

    def f1(ledger: dict[str, Any]) -> str:
        known = ledger["AU12_true"] >= 0
        return f"{100 * f1_score(ledger['AU12_true'][known], ledger['AU12_prob'][known] >= 0.5):.1f}"

    assert table.rows[0][2].split()[0] == f1(bp4d)
    assert table.rows[0][2].endswith("*")
    assert table.rows[0][3].split()[0] == f1(crossed)
    assert not table.rows[0][3].endswith("*")
    assert table.rows[1][2] == "–"
    assert table.notes[0] == "Over what all cells score: AU12."
    assert cross_dataset_section([pair_of(tmp_path / name) for name in ("bp4d", "disfa")]) is None

"""Hand-made run folders."""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lightning_modules.common.metrics import ledger_aus


def _write_fold(
    root: Path,
    fold: int,
    ledger: Mapping[str, Any],
    seed: int = 0,
    done: bool = True,
    ledgers: Mapping[str, Any] = {},
    **result: Any,
) -> Path:
    path = root / f"fold{fold}-seed{seed}"
    path.mkdir(parents=True)
    for name, columns in {"predictions": ledger, **ledgers}.items():
        pd.DataFrame(columns).to_parquet(path / f"{name}.parquet")
    facts = {"dataset": "disfa", "edition": "published", "aus": ledger_aus(ledger), "select_on": "val"}
    facts |= {"task": "occurrence", "initialisation": "imagenet", "fold": fold, "seed": seed}
    (path / "result.json").write_text(json.dumps(facts | result))
    if done:
        (path / "DONE").touch()
    return path


@pytest.fixture(scope="session")
def write_fold() -> Callable[..., Path]:
    """A writer of run folders: (root, fold, ledger, seed=0, done=True, ledgers={}, **result.json fields) -> folder."""
    return _write_fold


@pytest.fixture(scope="session")
def random_ledger() -> Callable[..., dict[str, Any]]:
    """A maker of ledgers of both tasks; labels depend on the fold alone, predictions on skill and seed too."""

    def make(
        fold: int,
        aus: tuple[int, ...] = (6, 12),
        subjects: int = 5,
        frames: int = 40,
        skill: float = 1.5,
        seed: int = 0,
    ) -> dict[str, Any]:
        truth, noise = np.random.default_rng(fold), np.random.default_rng([fold, seed, int(10 * skill)])
        n = subjects * frames
        ledger: dict[str, Any] = {"subject": np.repeat([f"S{fold}{i}" for i in range(subjects)], frames)}
        ledger |= {"sequence": np.full(n, "left"), "frame": np.tile(np.arange(frames), subjects)}
        for au in aus:
            rate = np.repeat(truth.uniform(0.05, 0.6, subjects), frames)
            level = np.where(truth.random(n) < rate, truth.integers(1, 6, n), 0)
            level[truth.random(n) < 0.1] = -1
            score = np.round(1 / (1 + np.exp(1 - skill * (level > 0) - noise.normal(size=n))), 2)
            ledger |= {f"AU{au:02d}_true": np.where(level < 0, -1, level > 0), f"AU{au:02d}_prob": score}
            guess = np.clip(level + noise.integers(-1, 2, n), 0, 5)
            ledger |= {f"AU{au:02d}_true_level": level, f"AU{au:02d}_level": guess}
        return ledger

    return make


@pytest.fixture(scope="session")
def expression_ledger() -> Callable[..., dict[str, Any]]:
    """A maker of ledgers of expressions; labels depend on the fold alone, one in ten is unknown."""

    def make(
        fold: int,
        names: tuple[str, ...] = ("Neutral", "Smile", "Scream"),
        subjects: int = 5,
        frames: int = 12,
        skill: float = 1.5,
    ) -> dict[str, Any]:
        truth, noise = np.random.default_rng(fold), np.random.default_rng([fold, int(10 * skill)])
        n, classes = subjects * frames, len(names)
        true = truth.integers(0, classes, n)
        score = noise.gumbel(size=(n, classes)) + skill * np.eye(classes)[true]
        prob = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
        true[truth.random(n) < 0.1] = -1
        key = {"subject": np.repeat([f"S{fold}{i}" for i in range(subjects)], frames), "frame": np.arange(n)}
        columns = {f"expression_{name}_prob": prob[:, k] for k, name in enumerate(names)}
        return {**key, "sequence": np.full(n, "still"), "expression_true": true, **columns}

    return make


@pytest.fixture
def two_folds(tmp_path: Path) -> Path:
    """Two folds of two subjects; AU02 has no positive in fold 2, AU04 none at all.

    At 0.5: AU01 fold 1 tp 2, fp 1, fn 0 -> 4/5; fold 2 tp 1, fp 0, fn 1 -> 2/3. AU02 fold 1 tp 1, fp 0, fn 1 -> 2/3.
    """
    yes, no = 0.9, 0.1
    _write_fold(
        tmp_path / "tiny",
        1,
        {
            "subject": ["a", "a", "b", "b"],
            "AU01_true": [1, 0, 1, 0],
            "AU01_prob": [yes, yes, yes, no],
            "AU02_true": [1, 1, 0, -1],
            "AU02_prob": [yes, no, no, yes],
            "AU04_true": [0, 0, 0, 0],
            "AU04_prob": [no, no, no, yes],
        },
    )
    _write_fold(
        tmp_path / "tiny",
        2,
        {
            "subject": ["c", "c", "d", "d"],
            "AU01_true": [1, 0, 1, 0],
            "AU01_prob": [yes, no, no, no],
            "AU02_true": [0, 0, 0, 0],
            "AU02_prob": [no, no, no, no],
            "AU04_true": [0, 0, 0, 0],
            "AU04_prob": [no, no, no, no],
        },
    )
    return tmp_path / "tiny"


@pytest.fixture(scope="session")
def wandb_schema() -> Callable[[Mapping[str, Any]], list[str]]:
    """What W&B's own package finds wrong with a sweep."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is written for an older pydantic
        sweeps = pytest.importorskip("sweeps", reason="W&B's package `sweeps` is in the extra `test`")
    return sweeps.schema_violations_from_proposed_config

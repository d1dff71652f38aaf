"""What an offline W&B run of a fold and of an experiment holds, read from its files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import pytorch_lightning as pl
from sklearn.metrics import average_precision_score, f1_score, precision_score

from datamodules.synth_facs import SynthFACS
from experiments.mirrored import show_experiment
from experiments.run import main
from tests.wandb_files import read

SMALL = [
    "--config", "renet_synthetic.yaml", "--run.tracker=wandb", "--run.wandb=offline", "--run.artifacts=true",
    "--data.root=synth:synth_facs?subjects=21&frames=3&size=64&stride=60&rates=balanced", "--data.image_size=32",
    "--data.batch_size=8", "--data.num_workers=0", "--data.val_subjects=3", "--data.aus=[1, 12, 25]",
    "--model.width=0.25", "--model.recalibrate_batches=2", "--trainer.max_epochs=2", "--trainer.accelerator=cpu",
]  # fmt: skip


def logged(run: Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame], dict[str, Path]]:
    """Everything, its tables, and the files of its figures."""
    found = read(run)
    media = {name: item for row in found["history"] for name, item in row.items() if "/" in name}
    files = {name: run / "files" / item["path"] for name, item in media.items() if isinstance(item, dict)}
    tables = {
        name.removeprefix("tables/"): pd.read_json(path, orient="split")
        for name, path in files.items()
        if name.startswith("tables/")
    }
    return found, tables, {name: path for name, path in files.items() if name.startswith("figures/")}


def test_a_fold_is_complete_offline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, f"--trainer.default_root_dir={tmp_path}"]) == 0
    folder = tmp_path / "renet_synthetic" / "fold1-seed0"
    (run,) = (folder / "wandb").glob("offline-run-*")
    assert f"wandb sync {run}" in capsys.readouterr().err + (folder / "log.txt").read_text()
    found, tables, figures = logged(run)
    record, result = found["run"], json.loads((folder / "result.json").read_text())
    assert (record.display_name, record.run_group, record.job_type) == (
        "renet_synthetic-f1-s0",
        "renet_synthetic",
        "fold",
    )
    assert {"RENet", "synth_facs"} <= {*record.tags}
    facts = ("config_hash", "held_out_subjects", "effective_batch", "commit", "initialisation", "versions.torch")
    assert {*facts, "model.init_args.lr", "data.init_args.fold", "seed_everything"} <= found["config"].keys()
    assert found["config"]["held_out_subjects"] == result["held_out_subjects"]
    assert not any(isinstance(value, dict) for name, value in found["config"].items() if name != "_wandb")
    ledger = pd.read_parquet(folder / "predictions.parquet")
    au = tables["per_au"].set_index("AU")
    for name in ("AU01", "AU12", "AU25"):
        true, prob = ledger[f"{name}_true"], ledger[f"{name}_prob"].astype(float)
        true, prob = true[true >= 0], prob[true >= 0]
        expected = [f1_score(true, prob >= 0.5), average_precision_score(true, prob), true.mean(), len(true)]
        expected += [precision_score(true, prob >= 0.5, zero_division=0), result["threshold"][name]]
        row = au.loc[name, ["f1", "ap", "prevalence", "n", "precision", "threshold"]].fillna(0)
        assert row.tolist() == pytest.approx(expected, abs=1e-6)
    assert found["summary"]["test/f1_mean"] == pytest.approx(result["metrics"]["f1_mean"])
    assert found["summary"]["val/f1_mean"] is not None
    assert {"best_epoch", "seconds", "n_frames"} <= found["summary"].keys()
    assert set(tables["per_subject"]["subject"]) == {f"synth_facs/{name}" for name in result["held_out_subjects"]}
    wrong = tables["failures"]
    assert ((wrong["prob"] >= 0.5) != wrong["label"].astype(bool)).all()
    assert {
        f"figures/{name}" for name in ("precision_recall", "cooccurrence", "prevalence", "training")
    } <= figures.keys()
    for path in figures.values():
        with PIL.Image.open(path) as image:
            assert image.width > 200
    curve = [row["train/loss"] for row in found["history"] if "train/loss" in row]
    assert curve == pytest.approx(pd.read_csv(folder / "metrics.csv")["train/loss"].tolist())
    sent = {path.name for path in run.rglob("*") if path.is_file()}
    assert not [name for name in sent if name.endswith((".jpg", ".bin", ".npz"))], "no face leaves the machine"


def test_people_are_shown_to_those_who_were_allowed_to_see_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that nobody rendered: first for nobody, then for the report, then for the dashboard; trained once."""
    told = SynthFACS.state_dict
    monkeypatch.setattr(SynthFACS, "state_dict", lambda self: told(self) | {"edition": "published"})
    folder = tmp_path / "renet_synthetic" / "fold1-seed0"
    seen = []
    for media in ("none", "report", "report", "dashboard"):
        assert main([*SMALL, f"--trainer.default_root_dir={tmp_path}", f"--run.media={media}"]) == 0
        runs = sorted((folder / "wandb").glob("offline-run-*"))
        sent = {name for run in runs for name in logged(run)[2]}
        assert json.loads((folder / "result.json").read_text())["media"] == media
        kept = (folder / "feature_maps.npz").exists()
        seen.append((kept, "figures/feature_maps" in sent, len(runs)))
        monkeypatch.setattr(pl.Trainer, "fit", None)
    assert seen == [(False, False, 1), (True, False, 2), (True, False, 2), (True, True, 3)]
    with np.load(folder / "feature_maps.npz") as arrays:
        assert arrays["images"].shape == (5, 32, 32, 3)


def test_an_experiment_is_one_run_that_is_shown_once(
    tmp_path: Path, write_fold: Callable[..., Path], random_ledger: Callable[..., dict[str, Any]]
) -> None:
    path = tmp_path / "tiny"
    for fold in (1, 2):
        for seed in (0, 1):
            write_fold(path, fold, random_ledger(fold, seed=seed), seed=seed, name="tiny")
    for _ in range(2):
        show_experiment(path, "wandb", "offline")
    (run,) = (path / "wandb").glob("offline-run-*")
    found, tables, figures = logged(run)
    assert (found["run"].display_name, found["run"].run_group, found["run"].job_type) == ("tiny", "tiny", "aggregate")
    scores = {name: found["summary"][f"test/f1_mean{name}"] for name in ("", "_low", "_high", "_pooled", "_fold_sd")}
    assert scores["_low"] < scores[""] < scores["_high"]
    assert (found["summary"]["folds"], found["summary"]["seeds"]) == (2, 2)
    au = tables["per_au"].set_index("AU")
    assert (au["f1_low"] <= au["f1"]).all()
    assert set(tables["per_subject"]["fold"]) == {1, 2}
    assert "figures/subjects" in figures
    show_experiment(path, "none", "offline")
    write_fold(path, 3, random_ledger(3), name="tiny")
    show_experiment(path, "wandb", "disabled")
    assert len([*(path / "wandb").glob("offline-run-*")]) == 1

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml
from sklearn.metrics import f1_score, roc_auc_score

import experiments.run
from datamodules.errors import DataError
from experiments.cli import CONFIGS, ConfigError, SuiteCLI, normalise
from experiments.run import main, run_required
from lightning_modules.common.errors import ModelError

SYNTH = "synth:synth_facs?subjects=21&frames=3&size=64&stride=60&rates=balanced"
SMALL = [
    "--config", "renet_synthetic.yaml",
    f"--data.root={SYNTH}",
    "--data.image_size=32",
    "--data.batch_size=8",
    "--data.num_workers=0",
    "--data.val_subjects=3",
    "--data.aus=[1, 12, 25]",
    "--model.width=0.25",
    "--model.recalibrate_batches=2",
    "--trainer.max_epochs=2",
    "--trainer.accelerator=cpu",
]  # fmt: skip

Completed = subprocess.CompletedProcess[str]


def small(root: Path, *words: str) -> list[str]:
    return [*SMALL, f"--trainer.default_root_dir={root}", *words]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a finished run with flip averaging and all predictions."""
    root = tmp_path_factory.mktemp("finished")
    assert main(small(root, "--run.flip=true", "--run.predict=all")) == 0
    return root


@pytest.fixture
def folder(finished: Path) -> Path:
    return finished / "renet_synthetic" / "fold1-seed0"


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def test_a_run_leaves_what_the_design_promises(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "checkpoints", "metrics.csv", "result.json", "log.txt", "DONE", "features.npz"}
    assert names >= {f"predictions{suffix}.parquet" for suffix in ("", "_val", "_flip", "_train")}
    assert {path.name for path in (folder / "checkpoints").glob("*.ckpt")} == {
        "best.ckpt",
        "last.ckpt",
        "recalibrated.ckpt",
    }
    assert not list(folder.rglob(".*"))
    curve = pd.read_csv(folder / "metrics.csv")
    assert curve["epoch"].tolist() == [0, 1]
    assert curve[["train/loss", "val/f1_mean", "val/f1/AU12"]].notna().all().all()
    result = result_of(folder)
    assert result["sizes"][""]["parameters"] == result["n_params"]
    assert result["sizes"][""]["macs"] > 0
    assert list(result["sizes"]) == [""]  # RE-Net's backbone runs in copies


def test_an_epoch_is_in_the_csv_before_its_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    save = pl.Trainer.save_checkpoint

    def look(trainer: pl.Trainer, *words: Any, **settings: Any) -> None:
        curve = pd.read_csv(tmp_path / "renet_synthetic" / "fold1-seed0" / "metrics.csv")
        seen.append(curve[["train/loss", "val/f1_mean"]].notna().all(axis=1).sum())
        save(trainer, *words, **settings)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", look)
    assert main(small(tmp_path)) == 0
    assert (seen[0], seen[-1]) == (1, 2)


def test_scores_can_be_recomputed_from_the_ledger(folder: Path) -> None:
    result, ledger = result_of(folder), pd.read_parquet(folder / "predictions.parquet")
    for au in ("AU01", "AU12", "AU25"):
        true, prob = ledger[f"{au}_true"], ledger[f"{au}_prob"].astype(float)
        assert result["metrics"]["f1"][au] == pytest.approx(f1_score(true, prob >= 0.5, zero_division=0))
        assert result["metrics"]["auc"][au] == pytest.approx(roc_auc_score(true, prob))
        tuned = f1_score(true, prob >= result["threshold"][au], zero_division=0)
        assert result["metrics"]["f1_tuned"][au] == pytest.approx(tuned)
    assert "metrics_without_recalibration" in result
    assert result["metrics_without_recalibration"]["auc"] != result["metrics"]["auc"]


def test_each_ledger_holds_its_subjects_alone(folder: Path) -> None:
    result = result_of(folder)
    seen = {n: set(pd.read_parquet(folder / f"predictions{n}.parquet")["subject"]) for n in ("", "_val", "_train")}
    assert seen[""] == set(result["held_out_subjects"])
    assert seen["_val"] == set(result["val_subjects"])
    assert len(seen["_train"]) == result["n_train_subjects"]
    assert sum(map(len, seen.values())) == len(set.union(*seen.values()))


def test_a_checkpoint_tells_its_data_in_plain_types(folder: Path) -> None:
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    state = checkpoint["SynthFACS"]
    result = result_of(folder)
    assert state["test_persons"] == [f"synth_facs/{name}" for name in result["held_out_subjects"]]
    assert state["aus"] == [1, 12, 25]
    assert {"preprocessing", "licence", "select_on", "label_threshold", "fold", "split"} <= set(state)
    assert result["split"] == state["split"]


def test_the_same_command_again_prints_the_result(
    finished: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pl, "Trainer", None)
    before = (folder / "result.json").stat().st_mtime_ns
    assert main(small(finished, "--run.flip=true", "--run.predict=all")) == 0
    assert "f1_mean" in capsys.readouterr().out
    assert (folder / "result.json").stat().st_mtime_ns == before


def test_the_written_configuration_is_the_run(finished: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl, "Trainer", None)
    assert main(["--config", str(folder / "config.yaml")]) == 0


@pytest.mark.parametrize(
    ("words", "error", "named"),
    [
        (["--model.lr=0.5"], ConfigError, "model.init_args.lr"),
        (["--run.name=x", "--fold", "9"], DataError, "data.fold=9"),
        (["--run.name=x", "--data.val_subjects=0"], ConfigError, "data.val_subjects=0"),
        (["--run.name=x", "--data.root=nowhere"], DataError, "nowhere"),
        (["--run.name=x", "--data.root=synth:nobody"], DataError, "nobody"),
        (["--run.name=x", "--data.root=synth:synth_facs?subject=3"], DataError, "subject"),
        (["--run.name=x", "--model.backbone=resnet19"], ModelError, "resnet19"),
        (["--run.name=x", "--model.backbone_checkpoint=none.ckpt"], ModelError, "none.ckpt"),
        (["--run.name=x", "--run.checkpoint=none.ckpt"], ModelError, "none.ckpt"),
        (["--run.name=x", "--run.requires=['missing.yaml']"], ConfigError, "missing.yaml"),
        (["--folds", "some"], ConfigError, "--folds some"),
    ],
)
def test_what_cannot_start_says_so_before_any_trainer(
    finished: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    error: type[Exception],
    named: str,
) -> None:
    monkeypatch.setattr(pl, "Trainer", None)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(error, match=named) as refused:
        main(small(finished, "--run.flip=true", "--run.predict=all", *words))
    assert refused.value.remedy
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_checkpoint_of_another_fold_is_refused(finished: Path, folder: Path, tmp_path: Path) -> None:
    best = folder / "checkpoints" / "best.ckpt"
    for argument in ("--run.checkpoint", "--model.backbone_checkpoint"):
        with pytest.raises(ModelError, match="S00"):
            main(small(tmp_path, "--fold", "2", f"{argument}={best}"))
    assert list(tmp_path.iterdir()) == []


def test_a_start_from_a_checkpoint_is_stamped(folder: Path, tmp_path: Path) -> None:
    best = folder / "checkpoints" / "best.ckpt"
    assert main(small(tmp_path, f"--model.backbone_checkpoint={best}", "--trainer.max_epochs=1")) == 0
    result = result_of(tmp_path / "renet_synthetic" / "fold1-seed0")
    assert result["initialisation"].startswith("checkpoint:")


def test_refit_trains_on_all_training_subjects(tmp_path: Path) -> None:
    assert main(small(tmp_path, "--run.refit=true", "--trainer.max_epochs=1")) == 0
    folder = tmp_path / "renet_synthetic" / "fold1-seed0"
    state = torch.load(folder / "checkpoints" / "refit" / "last.ckpt", weights_only=True)["SynthFACS"]
    result = result_of(folder)
    assert len(state["train_persons"]) == result["n_train_subjects"] == 14
    assert not set(state["train_persons"]) & set(state["test_persons"])
    assert not (folder / "predictions_val.parquet").exists()
    assert "f1_tuned" not in result["metrics"]


def test_a_finished_run_is_scored_again_for_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = small(tmp_path, "--trainer.max_epochs=1", "--data.select_on=test")
    assert main(words) == 0
    folder = tmp_path / "renet_synthetic" / "fold1-seed0"
    first, validated = result_of(folder), pd.read_parquet(folder / "predictions_val.parquet")
    assert set(validated["subject"]) == set(first["val_subjects"])  # thresholds never come from the held-out ones
    monkeypatch.setattr(pl.Trainer, "fit", None)
    assert main([*words, "--run.flip=true"]) == 0
    assert (folder / "predictions_flip.parquet").exists()
    assert result_of(folder)["metrics"] == first["metrics"]


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="Lightning knows float16 on GPUs alone")


@pytest.mark.parametrize("precision", ["bf16-mixed", pytest.param("16-mixed", marks=on_gpu)])
def test_half_precision_and_accumulated_gradients(tmp_path: Path, precision: str) -> None:
    words = [f"--trainer.precision={precision}", "--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=1"]
    assert main(small(tmp_path, *words)) == 0
    folder = tmp_path / "renet_synthetic" / "fold1-seed0"
    assert result_of(folder)["precision"] == precision
    assert pd.read_csv(folder / "metrics.csv")["step"].tolist() == [1]  # 4 batches are 2 steps, counted from 0
    prob = pd.read_parquet(folder / "predictions.parquet").filter(like="_prob")
    assert set(prob.dtypes) == {np.dtype(np.float32)}
    assert prob.notna().all(axis=None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet10t_synthetic", "renet_synthetic"])
def test_a_compiled_network_learns_the_same(tmp_path: Path, name: str) -> None:
    others = ("renet_synthetic.yaml", "--config", "--model.recalibrate_batches=2")
    words = ["--config", f"{name}.yaml", *(word for word in SMALL if word not in others)]
    words += ["--model.recalibrate_batches=0"] * (name == "renet_synthetic")
    for how in ("plain", "compiled"):
        extra = [f"--run.compile={str(how == 'compiled').lower()}", f"--trainer.default_root_dir={tmp_path / how}"]
        assert main([*words, *extra]) == 0
    ledgers = [
        pd.read_parquet(tmp_path / how / name / "fold1-seed0" / "predictions.parquet") for how in ("plain", "compiled")
    ]
    np.testing.assert_allclose(*(table.filter(like="_prob") for table in ledgers), atol=1e-3)


def test_fold_zero_trains_on_everybody(tmp_path: Path) -> None:
    assert main(small(tmp_path, "--fold", "0", "--trainer.max_epochs=1")) == 0
    result = result_of(tmp_path / "renet_synthetic" / "fold0-seed0")
    assert result["held_out_subjects"] == []
    assert result["n_train_subjects"] == 18


def test_fold_zero_trains_as_long_as_the_other_folds_chose(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fold 1 is done; 2 and 3 run first. Their numbers of epochs are overwritten to be 2, 1, 1, whose median is 1."""
    experiment = tmp_path / "renet_synthetic"
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    ran = []

    def in_turn(argv: list[str]) -> int:
        for fold, epochs in ((1, 2), (2, 1), (3, 1)):
            ran.append(fold)
            assert main([*argv, f"--data.fold={fold}"]) == 0
            path = experiment / f"fold{fold}-seed0" / "result.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": epochs}))
        return 0

    monkeypatch.setattr(experiments.run, "run_folds", in_turn)
    words = small(tmp_path, "--fold", "0", "--run.epochs=folds")
    assert main(words) == 0
    assert ran == [1, 2, 3]
    folder = experiment / "fold0-seed0"
    assert result_of(folder)["epochs"] == 1
    assert result_of(folder)["n_train_subjects"] == 21
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert state["epoch"] == 0
    assert (len(state["SynthFACS"]["train_persons"]), state["SynthFACS"]["val_persons"]) == (21, [])
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"] == 1
    assert main(words) == 0  # everything is done
    assert len(ran) == 3
    for fold in (2, 3):
        path = experiment / f"fold{fold}-seed0" / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": 2}))
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs \(1 there, 2 here\)"):
        main(words)
    with pytest.raises(ConfigError, match=r"fold1-seed0 holds a run with other settings"):
        main([*words, "--model.lr=0.1"])  # folds of other settings choose nothing
    monkeypatch.setattr(experiments.run, "run_folds", lambda argv: 3)
    with pytest.raises(ConfigError, match="a fold ended with exit code 3"):
        main([*words, "--run.name=other"])


def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    words = ["--trainer.max_epochs=6", "--early_stopping.patience=null"]
    script = Path(__file__).parents[2] / "experiments" / "run.py"
    line = [sys.executable, str(script), *small(tmp_path / "cut", *words)]
    last = tmp_path / "cut" / "renet_synthetic" / "fold1-seed0" / "checkpoints" / "last.ckpt"
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert main(small(tmp_path / "cut", *words)) == 0
    assert main(small(tmp_path / "whole", *words)) == 0

    cut, whole = (tmp_path / name / "renet_synthetic" / "fold1-seed0" for name in ("cut", "whole"))
    one, other = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (cut, whole))
    assert one["epoch"] == other["epoch"] == 5
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())
    for ledger in ("predictions", "predictions_val"):
        pd.testing.assert_frame_equal(*(pd.read_parquet(f / f"{ledger}.parquet") for f in (cut, whole)))
    pd.testing.assert_frame_equal(*(pd.read_csv(f / "metrics.csv") for f in (cut, whole)))


def test_a_terminated_run_says_so_and_goes_on(tmp_path: Path) -> None:
    words = small(tmp_path, "--trainer.max_epochs=100", "--early_stopping.patience=null")
    script = Path(__file__).parents[2] / "experiments" / "run.py"
    folder = tmp_path / "renet_synthetic" / "fold1-seed0"
    process = subprocess.Popen([sys.executable, str(script), *words], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "the same command goes on" in said
    assert not (folder / "checkpoints" / "TRAINED").exists()
    assert not (folder / "result.json").exists()


@pytest.mark.slow
def test_two_processes_go_on_after_a_kill_and_end_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    epochs = ["--trainer.max_epochs=8", "--early_stopping.patience=null", "--model.recalibrate_batches=0"]
    two = ["--data.batch_size=8", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.sync_batchnorm=true"]
    script = Path(__file__).parents[2] / "experiments" / "run.py"
    line = [sys.executable, str(script), *small(tmp_path / "two", *epochs, *two)]
    one, other = (tmp_path / name / "renet_synthetic" / "fold1-seed0" for name in ("one", "two"))
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while not (other / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    ended = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "goes on" in ended.stderr
    assert main(small(tmp_path / "one", *epochs, "--data.batch_size=16")) == 0
    assert result_of(other)["world_size"] == 2
    curves = [pd.read_csv(folder / "metrics.csv") for folder in (one, other)]
    assert curves[1]["epoch"].tolist() == list(range(8))
    np.testing.assert_allclose(*(curve["train/loss"] for curve in curves), rtol=0.01)
    a, b = (pd.read_parquet(folder / "predictions.parquet") for folder in (one, other))
    assert len(a) % 2 == 1  # one rank has to repeat a row, which the ledger drops
    pd.testing.assert_frame_equal(a.filter(regex="^(?!.*_prob)"), b.filter(regex="^(?!.*_prob)"))
    np.testing.assert_allclose(a.filter(like="_prob"), b.filter(like="_prob"), atol=0.02)


def test_all_folds_in_one_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(small(tmp_path, "--folds", "all", "--trainer.max_epochs=1")) == 0
    printed = capfd.readouterr().out
    experiment = tmp_path / "renet_synthetic"
    held_out = [set(result_of(experiment / f"fold{k}-seed0")["held_out_subjects"]) for k in (1, 2, 3)]
    assert set.union(*held_out) == {f"S{i:04d}" for i in range(1, 22)}
    assert sum(map(len, held_out)) == 21
    summary = json.loads((experiment / "summary.json").read_text())
    assert summary["name"] == "renet_synthetic"
    report = Path(printed.strip().splitlines()[-1].removeprefix("report: "))
    assert report.exists()
    assert "AU12" in printed


def test_an_error_is_two_lines_and_exit_code_two(tmp_path: Path, command: Callable[..., Completed]) -> None:
    ended = command("run.py", *small(tmp_path, "--model.lrr=1"))
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "error: model.lrr: no such argument",
        "remedy: `--help` and `--model.help=CLASS` list the keys and types",
    ]


def test_a_requirement_inherits_what_it_should(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: list[list[str]] = []
    environment: dict[str, str] = {}

    def record(line: list[str], env: dict[str, str], **_: Any) -> Completed:
        called.append(line)
        environment.update(env)
        return subprocess.CompletedProcess(line, 0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", record)
    monkeypatch.setenv("WANDB_RUN_ID", "of the trial")  # a W&B agent started this one
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    overlay = ["--config", "overlays/cpu.yaml"]
    argv = normalise([*SMALL, *overlay, "--model.lr=1", "--fold", "2", "--seed", "5", "trainer.default_root_dir=out"])
    run_required("renet_synthetic.yaml --fold 0 --run.name=first", argv, SuiteCLI(argv))
    line = called[0][2:]
    parsed = SuiteCLI(normalise(line)).config
    assert line[1:4:2] == [str(CONFIGS / "renet_synthetic.yaml"), str(CONFIGS / "overlays" / "cpu.yaml")]
    assert (parsed.run.name, parsed.data.init_args.fold, parsed.seed_everything) == ("first", 0, 5)
    assert parsed.data.init_args.root == SYNTH
    assert parsed.trainer.default_root_dir == "out"
    assert parsed.model.init_args.lr != 1
    assert "WANDB_RUN_ID" not in environment, "it would write into the trial's run"
    assert environment["WANDB_PROJECT"] == "ours"


def test_a_whole_configuration_is_written(folder: Path) -> None:
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["model"]["init_args"]["relation"] == "fixed"
    assert settings["trainer"]["max_epochs"] == 2


def test_openmp_is_told_to_sleep_before_torch_is_loaded() -> None:
    program = """
import os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.exit(f"torch is loaded under {os.environ.get('OMP_WAIT_POLICY')} {os.environ.get('GOMP_SPINCOUNT')}")

sys.meta_path.insert(0, Watch())
for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
    os.environ.pop(name, None)
runpy.run_path(sys.argv[1], run_name="run")
"""
    script = str(Path(__file__).parents[2] / "experiments" / "run.py")
    line = [sys.executable, "-c", program, script]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert ended.stderr.splitlines() == ["torch is loaded under PASSIVE 0"]

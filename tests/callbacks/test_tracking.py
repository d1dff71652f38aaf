from pathlib import Path

import pandas as pd

from callbacks.tracking import MetricsCSV, tracker


def test_metrics_go_on_after_a_resume_and_a_repeated_epoch_replaces_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    first = MetricsCSV(path)
    first.log_metrics({"epoch": 0, "train/loss": 3.0}, step=9)
    first.log_metrics({"epoch": 0, "val/f1_mean": 0.25}, step=9)
    first.log_metrics({"epoch": 1, "train/loss": 2.0}, step=19)
    first.log_metrics({"epoch": 2, "train/loss": 9.0}, step=25)
    first.save()
    resumed = MetricsCSV(path)
    resumed.log_metrics({"epoch": 2, "train/loss": 1.0}, step=25)
    resumed.log_metrics({"epoch": 3, "train/loss": 0.5}, step=39)
    resumed.finalize("success")
    table = pd.read_csv(path)
    assert table.columns.tolist() == ["epoch", "step", "train/loss", "val/f1_mean"]
    assert table["step"].tolist() == [9, 19, 25, 39]
    assert table["train/loss"].tolist() == [3.0, 2.0, 1.0, 0.5]
    assert table["val/f1_mean"].tolist()[0] == 0.25


def test_a_logger_that_logged_nothing_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss\n0,9,3.0\n")
    MetricsCSV(path).save()
    assert path.read_text() == "epoch,step,train/loss\n0,9,3.0\n"


def test_no_tracker_where_none_is_asked_for(tmp_path: Path) -> None:
    assert tracker("none", "online", tmp_path) == []
    assert tracker("wandb", "disabled", tmp_path) == []
    assert not list(tmp_path.iterdir())

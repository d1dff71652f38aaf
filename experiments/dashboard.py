"""The dashboard of a W&B project, as code: one view of all folds and experiments that the suite has shown there.

    pip install -e '.[dashboard]'
    python experiments/dashboard.py ENTITY [--project facsuite]

Everything in it stands in report.py's page too, for which nobody needs an account.
"""

import argparse
import importlib.util
import sys
from typing import Any

from callbacks.wandb_mirror import PROJECT, has_key
from experiments.cli import ConfigError
from experiments.terminal import exit_with

HEADLINES = ("test/f1_mean", "test/icc_mean", "test/accuracy", "val/f1_mean")


def workspace(entity: str, project: str) -> Any:
    """The dashboard, as wandb-workspaces defines it; runs are grouped by experiment."""
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as workspaces

    def tables(*names: str) -> list[Any]:
        return [panels.WeavePanelSummaryTable(table_name=f"tables/{name}") for name in names]

    def figures(*names: str) -> list[Any]:
        return [panels.MediaBrowser(title=name, media_keys=[f"figures/{name}"]) for name in names]

    def bars(name: str, **how: Any) -> Any:
        return panels.BarPlot(title=name, metrics=[name], **how)

    spread = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    curves = ("train/loss", "val/loss", "val/f1_mean", "val/icc_mean", "val/accuracy")
    sections = {
        "Overview": [bars(name, **spread) for name in HEADLINES],
        "Per-AU": [*tables("per_au", "failures"), *figures("precision_recall", "cooccurrence", "prevalence")],
        "Folds": [bars("test/f1_mean", groupby=panels.Config("fold")), bars("test/f1_mean_fold_sd")],
        "Subjects": [*tables("per_subject"), *figures("subjects")],
        "Training": [
            *(panels.LinePlot(title=name, x="epoch", y=[name], **spread) for name in curves),
            *map(bars, ("best_epoch", "seconds", "gpu_hours")),
        ],
        "Published": tables("published_0", "published_1", "published_2"),
    }
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name="Action units",
        sections=[
            workspaces.Section(name=name, panels=inside, is_open=name == "Overview")
            for name, inside in sections.items()
        ],
        runset_settings=workspaces.RunsetSettings(groupby=[workspaces.Metric("Group")]),
        auto_generate_panels=False,
    )


def main(argv: list[str]) -> int:
    """Parse the command line and save the dashboard; returns the exit code."""
    parser = argparse.ArgumentParser(
        "dashboard.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("entity", help="user or team on the W&B server")
    parser.add_argument("--project", default=PROJECT)
    options = parser.parse_args(argv)
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ConfigError("wandb-workspaces is not installed", "pip install -e '.[dashboard]'")
    if not has_key():
        raise ConfigError("no W&B key is found, and a dashboard lives on its server", "run `wandb login`")
    made = workspace(options.entity, options.project)
    made.save()
    print(f"dashboard: {made.url}")
    return 0


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]))

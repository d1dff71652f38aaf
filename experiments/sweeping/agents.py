"""A sweep on W&B's server, whose agents run the trials wherever they are started."""

import os
from typing import Any

import wandb

from callbacks.wandb_mirror import PROJECT, has_key
from experiments.cli import ConfigError
from experiments.processes import gpus
from experiments.sweeping.plan import Sweep


def definition(sweep: Sweep) -> dict[str, Any]:
    """What the server gets: the file, with the words that this command added."""
    return {"name": sweep.name, "project": PROJECT} | sweep.config | {"command": sweep.command}


def create(sweep: Sweep) -> str:
    """Create the sweep; returns ``entity/project/id``.

    Raises:
        ConfigError: No key, offline, or the server cannot be reached or refuses.
    """
    if (mode := os.environ.get("WANDB_MODE", "online")) != "online":
        raise ConfigError(f"--backend wandb: WANDB_MODE={mode}", "unset it, or use --backend local or slurm")
    if not has_key():
        raise ConfigError(
            "--backend wandb: no W&B key is found, and only its server can deal out trials",
            "run `wandb login`, or use --backend local or slurm",
        )
    config = definition(sweep)
    try:
        number = wandb.sweep(config, project=config["project"], entity=config.get("entity"))
        api = wandb.Api()
        entity = config.get("entity") or api.settings["entity"] or api.default_entity
    except (wandb.Error, OSError) as error:
        cause = " ".join(str(error).split())
        raise ConfigError(
            f"W&B: {cause}", "see `wandb login` and the network, or use --backend local or slurm"
        ) from error
    return f"{entity}/{config['project']}/{number}"


def agent_lines(path: str) -> list[str]:
    """What to type on each node: an agent for each of its GPUs."""
    names = gpus()
    if len(names) < 2:
        return [f"wandb agent {path}"]
    return [f"CUDA_VISIBLE_DEVICES={name} wandb agent {path} &" for name in names]

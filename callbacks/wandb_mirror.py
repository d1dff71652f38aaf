"""A run of W&B beside a run folder: what fails in it is said once and ends it, never the run that it shows."""

import netrc
import os
import secrets
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import PIL.Image
import wandb
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

PROJECT = "facsuite"
# What an agent gives its trial. Whatever else the trial starts is another run.
AGENT = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
SECONDS_TO_START, SECONDS_TO_END = 30, 300  # that a network which does not answer may take
STEP = "trainer/global_step"


def wandb_mode(mode: str) -> str:
    """``online``, ``offline`` or ``disabled``: what a wanted mode comes to here, without ever asking a question.

    Args:
        mode: ``auto`` is WANDB_MODE, or online when a key is found, else offline; ``online`` without a key is offline.
    """
    wanted = os.environ.get("WANDB_MODE") or "online" if mode == "auto" else mode
    if wanted != "online" or has_key():
        return {"dryrun": "offline", "run": "online"}.get(wanted, wanted)
    rank_zero_info("W&B: no key found, so this run is recorded offline (`wandb login` sends later ones)")
    return "offline"


def has_key() -> bool:
    """Whether W&B knows who this is: by the environment or by ``wandb login``."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class WandbMirror(Logger):
    """Logs to a W&B run of its own, also where this process has others; a run that goes on keeps its id.

    Args:
        folder: What is mirrored; W&B writes below its ``wandb``.
        mode: ``online`` or ``offline``; a server that does not answer at the start makes it offline.
        settings: ``name``, ``group``, ``job_type``, ``tags`` and ``config`` of the run, as `wandb.init` takes them.
    """

    def __init__(self, folder: Path, mode: str, **settings: Any) -> None:
        super().__init__()
        self.folder, self.mode = folder, mode
        self._settings = settings
        self._run: Any = None
        self._ended = False

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "wandb"

    @property
    def version(self) -> str:
        """Id of the run, the same for all that was ever started in the folder."""
        path = self.folder / "wandb" / "id"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(secrets.token_hex(4))
        return path.read_text()

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: ``config`` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send metrics of a step."""
        self._safely(lambda run: run.log({**metrics, STEP: step}))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run where training failed; after a success more is to come, see `finish`."""
        if status == "failed":
            self._end(1)

    @rank_zero_only
    def finish(
        self,
        config: Mapping[str, Any],
        summary: Mapping[str, Any],
        tables: Mapping[str, pd.DataFrame],
        figures: Mapping[str, tuple[bytes, str]],
        files: Sequence[Path] = (),
    ) -> None:
        """Send what a finished run has come to, and end it.

        Args:
            config: Facts that are known only now.
            summary: Scores, which tables of runs show and sort by.
            tables: By name.
            figures: By name: PNG and caption.
            files: Sent as an artifact.
        """

        def send(run: Any) -> None:
            run.config.update(dict(config), allow_val_change=True)
            shown: dict[str, Any] = {f"tables/{name}": wandb.Table(dataframe=table) for name, table in tables.items()}
            for name, (png, caption) in figures.items():
                shown[f"figures/{name}"] = wandb.Image(PIL.Image.open(BytesIO(png)), caption=caption)
            if shown:
                run.log(shown)
            run.summary.update(dict(summary))
            if files:
                artifact = wandb.Artifact(f"{self._settings['name']}".replace("=", "_"), type="run")
                for path in files:
                    artifact.add_file(str(path), name=str(path.relative_to(self.folder)))
                run.log_artifact(artifact)

        self._safely(send)
        self._end(0)

    def _start(self) -> Any:
        own: dict[str, Any] = {"resume": "allow"} if self.mode == "online" else {}
        if not os.environ.get("WANDB_SWEEP_ID"):  # else the agent has chosen both
            own |= {"id": self.version, "project": os.environ.get("WANDB_PROJECT", PROJECT)}
        run = wandb.init(
            dir=self.folder,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=SECONDS_TO_START,
                finish_timeout=SECONDS_TO_END,
                finish_timeout_raises=True,
            ),
            **{"mode": self.mode, **own, **self._settings},
        )
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        return run

    def _safely(self, do: Callable[[Any], None]) -> None:
        """Do something with the run, which starts at its first use."""
        if self._ended:
            return
        try:
            if self._run is None:
                try:
                    self._run = self._start()
                except Exception as error:
                    if self.mode != "online":
                        raise
                    rank_zero_info(f"W&B: {one_line(error)}; this run is recorded offline")
                    self.mode = "offline"
                    (self.folder / "wandb" / "id").unlink(missing_ok=True)  # W&B holds on to the one that failed
                    self._run = self._start()
            do(self._run)
        except Exception as error:  # whatever it is: results are in the run folder, and W&B must not take them along
            rank_zero_info(f"W&B: {one_line(error)}; nothing more is recorded there, {self.folder} has everything")
            self._end(1)

    def _end(self, code: int) -> None:
        run, self._run, self._ended = self._run, None, True
        if run is None:
            return
        sent = self.mode == "online"
        try:
            run.finish(exit_code=code)
        except Exception as error:
            rank_zero_info(f"W&B: {one_line(error)}")
            sent = False
        if not sent:
            parts = sorted(str(path) for path in (self.folder / "wandb").glob(f"*run-*-{run.id}"))  # one for each start
            rank_zero_info(f"W&B has not got this run yet: wandb sync {' '.join(parts)}")


def one_line(error: Exception) -> str:
    """What an error says."""
    return " ".join(str(error).split()) or type(error).__name__

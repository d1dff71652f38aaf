"""The folder of one (experiment, fold, seed): what it holds, and whether a run starts, goes on, or is done."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from filelock import FileLock, Timeout

from experiments.cli import ConfigError, Media, SuiteCLI, config_hash, hashed
from experiments.files import write_whole
from experiments.ledgers import FORMAT

State = Literal["new", "resume", "done"]
_HEADER = "# config_hash: "
_FORMAT = "# format: "


class RunFolder:
    """Paths and state of a run folder.

    Args:
        path: ``<root>/<run.name>/fold<k>-seed<s>``.
        settings: The resolved configuration of the run.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.hash = config_hash(settings)
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))  # let go by the system when the process ends
        self.trained = self.checkpoints / "TRAINED"  # a resume after early stopping would train another epoch
        self.config = path / "config.yaml"
        self.result = path / "result.json"
        self.done = path / "DONE"

    @classmethod
    def of(cls, cli: SuiteCLI) -> "RunFolder":
        """The folder of a parsed command line."""
        config = cli.config
        name = f"fold{config.data.init_args.fold}-seed{config.seed_everything}"
        return cls(cli.experiment / name, cli.settings)

    def state(self) -> State:
        """Whether to start, to go on, or that there is nothing to do.

        A pure function of the folder, so that every rank comes to the same answer.

        Raises:
            ConfigError: The folder belongs to other settings, or to a newer version.
        """
        if not self.config.exists():
            return "new"
        text = self.config.read_text()
        written = re.search(f"^{_FORMAT}(\\d+)$", text, re.MULTILINE)
        if written and int(written[1]) > FORMAT:
            raise ConfigError(
                f"{self.path} was written by a newer version (format {written[1]}; this one knows {FORMAT})",
                "update this checkout, or give this run another --run.name",
            )
        if not text.startswith(_HEADER + self.hash):
            theirs, ours = hashed(yaml.safe_load(text)), hashed(self.settings)
            keys = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
            differ = ", ".join(f"{key} ({theirs.get(key)} there, {ours.get(key)} here)" for key in keys)
            raise ConfigError(
                f"{self.path} holds a run with other settings: {differ or 'a file that they name has changed'}",
                "give this one another --run.name, or delete that folder",
            )
        if self.done.exists():
            return "resume" if self.missing() else "done"
        return "resume" if self.last.exists() else "new"

    def missing(self) -> list[str]:
        """What the settings ask for and an earlier run of this folder did not write; it is scored again."""
        run, fold = self.settings["run"], self.settings["data"]["init_args"]["fold"]
        asked = {"predictions_flip.parquet": run["flip"] and fold, "predictions_train.parquet": run["predict"] == "all"}
        lacking = [name for name, wanted in asked.items() if wanted and not (self.path / name).exists()]
        if run["media"] != "none":
            shown = json.loads(self.result.read_text()).get("media", "none")
            lacking += ["figures with faces"] * (get_args(Media).index(run["media"]) > get_args(Media).index(shown))
        return lacking

    def busy(self) -> bool:
        """Whether another process is at this run."""
        if not self.path.parent.exists():
            return False
        try:
            with self._lock.acquire(blocking=False):
                return False
        except Timeout:
            return True
        except OSError as error:
            raise unwritable(self.path, error) from error

    def open(self, state: State) -> None:
        """Make the folder ready and keep it from others; a start that left no checkpoint is cleared away first.

        Raises:
            ConfigError: Another process writes here, or nobody may.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
        except Timeout:
            raise ConfigError(
                f"{self.path}: another process is at this run", "wait for it, or give this one another --run.name"
            ) from None
        except OSError as error:
            raise unwritable(self.path, error) from error
        if state == "new" and self.path.exists():
            shutil.rmtree(self.path)
        self.done.unlink(missing_ok=True)
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_whole(
            self.config, f"{_HEADER}{self.hash}\n{_FORMAT}{FORMAT}\n{yaml.safe_dump(self.settings, sort_keys=False)}"
        )

    def close(self, result: dict[str, Any]) -> None:
        """Write result.json, then DONE."""
        write_whole(self.result, json.dumps(result, indent=1, allow_nan=False))
        self.done.touch()
        self._lock.release()


def unwritable(path: Path, error: OSError) -> ConfigError:
    """What to say when nothing can be written below a folder."""
    return ConfigError(
        f"{path} cannot be written: {error.strerror}",
        "mend its permissions, or choose another --trainer.default_root_dir",
    )

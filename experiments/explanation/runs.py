"""A finished EmotiRAMFAU run as explain.py reads it: predictions of its body before and after it learnt emotions."""

import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.ledger import Ledger, write_parquet
from datamodules.base import AUDataModule
from datamodules.errors import DataError
from experiments.cli import SuiteCLI, normalise
from experiments.explanation import numbers
from experiments.ledgers import FoldRun
from lightning_modules import EmotiRAMFAU, HeatmapFAU, MEGraphAU
from lightning_modules.common.metrics import Floats
from lightning_modules.common.weights import network_state, read_checkpoint

BEFORE, AFTER = "before", "after"


class EmotionRun:
    """A finished EmotiRAMFAU run, and its body before and after it learnt emotions.

    Args:
        run: Its folder.
        au_config: Command line of an AU stage, for a body whose weights others published.

    Raises:
        DataError: Not such a run, no AU stage behind it, or one that holds out nobody.
    """

    def __init__(self, run: FoldRun, au_config: Sequence[str] = ()) -> None:
        if run.result.get("class") != "EmotiRAMFAU":
            what = f"{run.path}: a run of {run.result.get('class')}, whose predictions rest on no AUs"
            raise DataError(what, "give runs of EmotiRAMFAU")
        self.run = run
        config = ["--config", str(run.path / "config.yaml")]
        parsed = SuiteCLI(normalise(config)).config
        source = parsed.model.init_args.backbone_checkpoint
        if source is None:
            raise DataError(f"{run.path}: started from no AU stage, so it has nothing to forget", "leave it out")
        self.source = _found(Path(source), run.path, Path(parsed.trainer.default_root_dir or "runs"))
        self.model, self.data = _built([*config, f"--model.backbone_checkpoint={self.source}"], EmotiRAMFAU)
        self.aus: list[int] = self.model.predicted_aus
        self.name = f"{run.result['name']}, seed {run.seed}"
        self.best = run.path / "checkpoints" / "best.ckpt"
        own = self.source.parents[1] / "config.yaml"
        if not au_config and not own.exists():
            what = f"{self.source}: in no run folder, so that the data of its AUs are unknown"
            raise DataError(what, "name an AU stage on them: --au_config 'megraph_disfa_mefl.yaml --fold=1'")
        self.au_words = list(au_config) or ["--config", str(own)]

    @cached_property
    def au_stage(self) -> tuple[HeatmapFAU | MEGraphAU, AUDataModule]:
        """Model and data of the AU stage."""
        model, data = _built(self.au_words, HeatmapFAU | MEGraphAU)
        if model.aus != self.aus:
            what = f"{' '.join(self.au_words)}: AUs {model.aus}, and the body knows {self.aus}"
            raise DataError(what, "name the stage that trained the body")
        if not len(data.rows_test):
            what = (
                f"{self.source}: trained on all subjects (fold {data.fold}): nobody is left to tell what is forgotten"
            )
            raise DataError(what, "start from an AU stage of fold 1")
        return model, data

    @cached_property
    def threshold(self) -> int:
        """Level from which an AU counts as present."""
        return self.au_stage[1].state_dict()["label_threshold"] or 1

    @property
    def rendered(self) -> bool:
        """Whether its pictures show no people."""
        return bool(self.data.state_dict()["edition"] == "twin")

    def calls(self, kind: str, when: str) -> numbers.Calls:
        """What the body says of its AUs: of the held-out frames of the AU stage (``aus``), or of ``emotions``."""
        return numbers.calls(self.ledger(kind, when), self.aus, self.threshold)

    def ledger(self, kind: str, when: str) -> pd.DataFrame:
        """The predictions behind ``calls``; made once and kept in the run folder."""
        if (kind, when) == ("emotions", AFTER):
            return self.run.ledger()
        path = self.run.path / f"predictions_{kind}_{when}.parquet"
        newest = max(file.stat().st_mtime for file in (self.best, self.source))
        if not path.exists() or path.stat().st_mtime < newest:
            print(f"{self.name}: {kind} {when} learning emotions", flush=True)
            self.set_body(when)
            ledger = Ledger()
            trainer = pl.Trainer(
                logger=False,
                callbacks=[ledger],
                devices=1,
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=sys.stderr.isatty(),
            )
            model, data = self.au_stage if kind == "aus" else (self.model, self.data)
            trainer.test(model, data, verbose=False)
            write_parquet(ledger.tables["test"], path)
        return pd.read_parquet(path)

    def set_body(self, when: str) -> None:
        """Give the models of both stages the body ``before`` or ``after``."""
        network = network_state(read_checkpoint(self.best))
        if when == BEFORE:
            network |= {f"body.{name}": tensor for name, tensor in self.model.initial_body().items()}
        self.model.network.load_state_dict(network)
        self.au_stage[0].network.load_state_dict(self.model.network.body.state_dict())

    @torch.no_grad()
    def maps(self, images: Tensor, when: str) -> Floats | None:
        """Pictures (n, 3, S, S) uint8 -> the higher of each AU's two heat-maps (n, A, h, w); None of similarities."""
        if self.model.body != "heatmap":
            return None
        self.set_body(when)
        maps = self.model.network.cpu().eval().body(images)
        return np.asarray(maps.unflatten(1, (len(self.aus), -1)).amax(2).numpy(), np.float64)

    def images(self, rows: pd.DataFrame) -> Tensor:
        """Pictures (n, 3, S, S) uint8 of rows of the ledger."""
        store = self.data.opened
        subjects, sequences = store.subjects[store.subject_code], store.sequences[store.sequence_code]
        place = {key: i for i, key in enumerate(zip(subjects, sequences, store.frame.tolist(), strict=True))}
        samples = self.data.samples(train=False)
        keys = zip(rows["subject"], rows["sequence"], rows["frame"].tolist(), strict=True)
        return torch.stack([samples[place[key]]["image"] for key in keys])


def _found(path: Path, run: Path, root: Path) -> Path:
    """The checkpoint where the run names it, or below the folder in which the run lies now."""
    moved = run.parents[1] / path.relative_to(root) if path.is_relative_to(root) else path
    for place in (path, moved):
        if place.is_file():
            return place
    raise DataError(f"{path}: no such file, and {run} started from it", "restore it, or run the AU stage again")


def _built(words: list[str], kind: Any) -> tuple[Any, Any]:
    """Model and data of a command line, set up."""
    model, data = SuiteCLI(normalise(words)).build()
    if not isinstance(model, kind):
        raise DataError(f"{' '.join(words)}: of {type(model).__name__}", "name a stage of HeatmapFAU or MEGraphAU")
    data.check()
    data.prepare_data()
    data.setup()
    return model, data

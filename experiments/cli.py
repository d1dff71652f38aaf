"""From a command line to a checked configuration: what run.py understands, and what it hashes."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentError
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from datamodules.affwild2 import AffWild2
from datamodules.base import AUDataModule
from datamodules.bp4d import BP4D
from datamodules.bp4d_plus import BP4DPlus
from datamodules.caer_s import CAERS
from datamodules.disfa import DISFA, DISFAPlus
from datamodules.mixture import Mixture
from datamodules.multi_pie import MultiPIE
from datamodules.pseudo import predictions_digest
from datamodules.synth_facs import SynthFACS
from experiments.terminal import innermost
from lightning_modules import (
    AUNet,
    BaselineAU,
    EmotiRAMFace,
    EmotiRAMFAU,
    ExpressionClassifier,
    FaceAligner,
    HeatmapFAU,
    IntensityMapper,
    LabelVAE,
    MEGraphAU,
    PairwiseRanker,
    RENet,
    TransferAU,
    UncertaintyRanker,
)
from lightning_modules.base import AUModule

CONFIGS = Path(__file__).parent / "configs"

# Configurations name these by their short names, which the parser knows once they are imported.
CLASSES = (
    *(AffWild2, BP4D, BP4DPlus, CAERS, DISFA, DISFAPlus, MultiPIE, Mixture, SynthFACS),
    *(AUNet, BaselineAU, EmotiRAMFace, EmotiRAMFAU, ExpressionClassifier, FaceAligner, HeatmapFAU, IntensityMapper),
    *(LabelVAE, MEGraphAU, PairwiseRanker, RENet, TransferAU, UncertaintyRanker),
)

DESCRIPTION = """\
Train and score one experiment on one fold, or on all of them with --folds all. --config NAME looks in
experiments/configs too and may be repeated; --fold K and --seed S are short for --data.fold and --seed_everything;
a.b=c stands for --a.b=c. --model.help=RENet and --data.help=DISFA list the arguments of a class."""

# Left out of the hash: where a run writes and what it runs on. Everything else changes its numbers.
UNHASHED_TRAINER = {
    "accelerator", "devices", "num_nodes", "strategy", "default_root_dir", "logger", "callbacks", "profiler",
    "enable_progress_bar", "enable_model_summary", "enable_checkpointing", "log_every_n_steps", "plugins", "benchmark",
}  # fmt: skip
HASHED_RUN = {"refit", "checkpoint"}


class ConfigError(ValueError):
    """A command line or configuration that cannot run."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


Media = Literal["none", "report", "dashboard"]  # from fewer to more who see faces


@dataclass
class RunArgs:
    """What a run does around its training.

    Attributes:
        name: Folder of the experiment below ``trainer.default_root_dir``.
        vary: Keys, such as ``model.lr``, whose values are added to the name where they are not what the configuration
            files say; ``config`` adds which file was the last. So the trials of a sweep get a folder each.
        requires: ``CONFIG [ARGUMENTS]`` of runs whose products this run reads; each runs first, unless it is done.
        tracker: Where numbers go beside metrics.csv.
        wandb: W&B mode; ``auto`` is online when a key is found, else offline.
        artifacts: Whether W&B also gets the ledgers and the best checkpoint.
        media: Where faces of people may be shown, as the licence of the data has it: nowhere, in the run folder for its
            report, or on the W&B dashboard too. Rendered ones are always in reports.
        threshold: Rule of the tuned threshold reported beside 0.5 (``f1_tuned``): chosen on validation subjects by
            highest F1 or by precision = recall, or on the test itself as some papers do.
        flip: Also score the mean over each test image and its mirror image.
        refit: Train again on all training subjects, for the number of epochs that validation chose.
        epochs: Who chooses how long fold 0, in which nobody is held out, trains: its own validation subjects (``val``),
            or the other folds, which run first (``folds``): the median of theirs, and all subjects train.
        checkpoint: Score this checkpoint instead of training one.
        predict: ``all`` also writes predictions for training subjects.
        compile: Train and score with the network compiled by torch; costs a minute, may pay on a GPU.
    """

    name: str
    vary: list[str] = field(default_factory=list)
    requires: list[str] = field(default_factory=list)
    tracker: Literal["wandb", "tensorboard", "none"] = "wandb"
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    artifacts: bool = False
    media: Media = "none"
    threshold: Literal["0.5", "val_f1", "val_break_even", "test_f1"] = "val_f1"
    flip: bool = False
    refit: bool = False
    epochs: Literal["val", "folds"] = "val"
    checkpoint: str | None = None
    predict: Literal["test", "all"] = "test"
    compile: bool = False


@dataclass
class CheckpointArgs:
    """Which epoch is kept as ``best.ckpt``.

    Attributes:
        monitor: Logged score that decides; by default the one that the model class names.
        mode: Whether higher or lower is better.
    """

    monitor: str | None = None
    mode: Literal["max", "min"] | None = None


@dataclass
class EarlyStoppingArgs:
    """When training ends before ``trainer.max_epochs``.

    Attributes:
        patience: Epochs without improvement of the monitored score; null never stops early.
        min_delta: Smallest change that counts as improvement.
    """

    patience: int | None = None
    min_delta: float = 0.0


class SuiteCLI(LightningCLI):
    """LightningCLI that parses only: run.py checks everything before anything is built."""

    _made: ClassVar[LightningArgumentParser | None] = None

    def __init__(self, argv: list[str]) -> None:
        super().__init__(
            AUModule,
            AUDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={
                "description": DESCRIPTION,
                "parser_mode": "omegaconf+",  # "omegaconf" resolves before overrides and would train the wrong fold
                "default_config_files": [str(CONFIGS / "_base.yaml")],
                "exit_on_error": False,
                "allow_abbrev": False,  # a key cut short is a mistake
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=argv,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def setup_parser(self, *arguments: Any) -> None:
        """Make the parser once: it is always the same, and a sweep parses hundreds of lines."""
        if SuiteCLI._made is None:
            super().setup_parser(*arguments)
            SuiteCLI._made = self.parser
        self.parser = SuiteCLI._made

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the groups run, checkpoint and early_stopping."""
        parser.add_class_arguments(RunArgs, "run")
        parser.add_class_arguments(CheckpointArgs, "checkpoint")
        parser.add_class_arguments(EarlyStoppingArgs, "early_stopping")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; an error says its innermost cause and not the whole usage."""
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise ConfigError(innermost(error), "`--help` and `--model.help=CLASS` list the keys and types") from error
        run = self.config.run
        if run.vary:
            run.name = "-".join([run.name, *varied(args, run.name, run.vary, self.config)])
            run.vary = []

    def _set_seed(self) -> None:
        """Nothing yet: see `build`."""

    def instantiate_classes(self) -> None:
        """Nothing yet: see `build`."""

    def build(self) -> tuple[AUModule, AUDataModule]:
        """A new model, its weights drawn by the seed, and a new DataModule."""
        pl.seed_everything(self.config.seed_everything, workers=True, verbose=False)
        self.config_init = self.parser.instantiate(self.config)
        return self.config_init.model, self.config_init.data

    def make_trainer(self, **overrides: Any) -> pl.Trainer:
        """A Trainer from the configuration; ``overrides`` win."""
        return pl.Trainer(**{**self.config_init.trainer, **overrides})

    @property
    def experiment(self) -> Path:
        """Folder of all folds and seeds of the experiment."""
        return Path(self.config.trainer.default_root_dir or "runs") / self.config.run.name

    @property
    def settings(self) -> dict[str, Any]:
        """The whole configuration with defaults, resolved, in plain types."""
        text = self.parser.dump(self.config, skip_unset=False, skip_validation=True)
        return {k: v for k, v in yaml.safe_load(text).items() if k != "config"}


def normalise(argv: list[str]) -> list[str]:
    """Rewrite what people and W&B agents type into what the parser takes.

    ``a.b=c`` gets its dashes, ``None`` becomes ``null``, ``--fold`` and ``--seed`` their full names; ``--config NAME``
    is looked up in experiments/configs and moved to the front, so that every other argument overrides it.

    Raises:
        ConfigError: A configuration file that does not exist or cannot be read.
    """
    configs, rest = [], []
    queue = list(argv)
    while queue:
        word = queue.pop(0)
        if not word.startswith("-") and "=" in word:
            word = f"--{word}"
        name, equals, value = word.partition("=")
        if name in ("--config", "-c", "--fold", "--seed") and not equals:
            if not queue:
                raise ConfigError(f"{name}: nothing follows", f"write {name} VALUE")
            value = queue.pop(0)
        if name in ("--config", "-c"):
            configs += ["--config", str(find_config(value))]
        elif name == "--fold":
            rest.append(f"--data.fold={value}")
        elif name == "--seed":
            rest.append(f"--seed_everything={value}")
        else:
            rest.append(f"{name}=null" if value == "None" else word)
    return configs + rest


def find_config(name: str) -> Path:
    """A configuration by path, or by name in experiments/configs and its overlays."""
    places = [Path(name), CONFIGS / name, CONFIGS / "overlays" / name]
    for place in [*places, *(p.with_name(f"{p.name}.yaml") for p in places)]:
        if place.is_file():
            try:
                yaml.safe_load(place.read_text())
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                cause = " ".join(str(error).split())
                raise ConfigError(f"{place} is no YAML: {cause}", "mend the line that it names") from error
            return place
    known = ", ".join(sorted(p.name for p in CONFIGS.glob("[!_]*.yaml")))
    raise ConfigError(f"--config {name}: no such file, nor one in {CONFIGS}", f"choose from {known}")


def split_configs(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths of the configurations of a normalised command line, and what follows them."""
    number = list(argv).count("--config")
    return list(argv[1 : 2 * number : 2]), list(argv[2 * number :])


def is_overlay(path: str) -> bool:
    """Whether a configuration says how to run, and nothing of what."""
    return Path(path).parent.name == "overlays"


def varied(argv: Sequence[str], name: str, keys: Sequence[str], config: Any) -> list[str]:
    """``key=value`` of the keys that the command line gives another value than its configuration files.

    Args:
        argv: Normalised command line.
        name: Of the experiment, by its files.
        keys: See ``run.vary``.
        config: What ``argv`` was parsed into.
    """
    configs, words = split_configs(argv)
    own = {*keys, "run.vary", "data.fold", "seed_everything"}
    rest = [word for word in words if word.lstrip("-").partition("=")[0] not in own]
    files = [word for path in configs for word in ("--config", path)]
    usual = _parsed((*files, *rest, "--run.vary=[]"))
    short = [key.rpartition(".")[2] for key in keys]
    parts = []
    for key, last in zip(keys, short, strict=True):
        if key == "config":
            stem = next(Path(path).stem for path in reversed(configs) if not is_overlay(path))
            parts += [stem] * (stem != name)
        elif (value := _value(config, key)) != _value(usual, key):
            parts.append(f"{last if short.count(last) == 1 else key}={in_a_name(value)}")
    return parts


@lru_cache(maxsize=256)  # the folds and seeds of a sweep ask the same
def _parsed(argv: tuple[str, ...]) -> Any:
    return SuiteCLI(list(argv)).config


def _value(config: Any, key: str) -> Any:
    top, _, rest = key.partition(".")
    if top not in ("model", "data"):
        return config.get(key)
    return config[top].init_args.get(rest) if rest else config[top].class_path.rpartition(".")[2]


def in_a_name(value: Any) -> str:
    """A value as a part of a folder's name: no blanks and slashes, at most 40 characters."""
    if isinstance(value, list):
        return "_".join(map(in_a_name, value)) or "none"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    text = re.sub(r"[^\w.+-]+", "_", text.lower() if value is None or isinstance(value, bool) else text).strip("_")
    return text if len(text) <= 40 else f"{text[:33]}~{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def hashed(settings: dict[str, Any]) -> dict[str, Any]:
    """What of the settings changes the numbers of a run, flat by dotted key; files count by their content."""
    flat = dict(flatten(settings))
    # What belongs to a kind of sample that the run does not have changes nothing, as when a later stage hands it on.
    for group, switch in (("pairs", "train"), ("pseudo", "predictions")):
        if not flat.get(f"data.init_args.{group}.{switch}"):
            flat = {key: value for key, value in flat.items() if not key.startswith(f"data.init_args.{group}.")}
    for key in list(flat):
        top, _, rest = key.partition(".")
        if (
            (top == "run" and rest not in HASHED_RUN)
            or (top == "trainer" and rest.split(".")[0] in UNHASHED_TRAINER)
            or key == "data.init_args.num_workers"
        ):
            del flat[key]
        elif key == "data.init_args.root" or key.startswith(("data.init_args.train.", "data.init_args.test.")):
            flat[key] = store_digest(flat[key])
        elif key == "data.init_args.pseudo.predictions" and flat[key]:
            flat[key] = predictions_digest(flat[key])
        elif re.search(r"checkpoint(\.\w+)?$", key) and flat[key] and Path(flat[key]).is_file():
            flat[key] = f"sha256:{hashlib.sha256(Path(flat[key]).read_bytes()).hexdigest()[:12]}"
    return flat


def store_digest(root: str) -> str:
    """What a data root holds, wherever it lies: the text of a synthetic root, else a digest of the store's manifest."""
    manifest = Path(root) / "manifest.json"
    if root.startswith("synth:") or not manifest.is_file():
        return root
    content = json.loads(manifest.read_text())
    text = json.dumps([content["preprocessing"], content["shards"]], sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def config_hash(settings: dict[str, Any]) -> str:
    """Twelve hex digits of what changes the numbers of a run."""
    return hashlib.sha256(json.dumps(hashed(settings), sort_keys=True, default=str).encode()).hexdigest()[:12]


def flatten(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of nested dicts by dotted key."""
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [leaf for k, v in tree.items() for leaf in flatten(v, f"{prefix}.{k}" if prefix else str(k))]

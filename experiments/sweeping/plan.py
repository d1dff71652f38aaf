"""From a W&B sweep file to trials, each one command line of run.py and one run folder. Nothing is run here."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from tqdm import tqdm

from experiments.cli import ConfigError, SuiteCLI, normalise
from experiments.run_folder import RunFolder, unwritable

SWEEPS = Path(__file__).parents[2] / "sweeps"
IN_FOLDER = ("data.fold", "fold", "seed_everything", "seed")  # the run folder tells these apart
_ARGS = {"${args}": "--{}={}", "${args_no_hyphens}": "{}={}"}
_KEYS = {
    "program", "project", "entity", "name", "description", "method", "metric", "parameters", "command",
    "early_terminate", "run_cap",
}  # fmt: skip
_PARAMETER = ("value", "values", "min", "max", "distribution", "probabilities", "mu", "sigma", "q")
_METHODS = ("grid", "random", "bayes")
_GOALS = ("minimize", "maximize")


@dataclass
class Trial:
    """One command line of run.py, parsed.

    Attributes:
        words: The command line.
        path: Folder in which it runs.
        settings: Its whole configuration.
    """

    words: list[str]
    path: Path
    settings: dict[str, Any]

    @classmethod
    def parse(cls, words: list[str]) -> "Trial":
        """Parse a command line; raises `ConfigError` for what run.py would refuse to parse."""
        folder = RunFolder.of(SuiteCLI(normalise(words)))
        return cls(words, folder.path, folder.settings)

    @property
    def experiment(self) -> str:
        """What its folds and seeds share: the name of the run."""
        return self.path.parent.name

    @property
    def part(self) -> str:
        """Fold and seed."""
        return self.path.name

    @property
    def folder(self) -> RunFolder:
        """Its run folder; made anew each time, because a checkpoint that it names may have come to exist."""
        return RunFolder(self.path, self.settings)

    @property
    def epochs(self) -> int | None:
        """How many it trains at most."""
        return self.settings["trainer"]["max_epochs"]

    def curve(self) -> pd.DataFrame:
        """What it has logged so far, an epoch a row; empty before the first one ends."""
        path = self.path / "metrics.csv"
        return pd.read_csv(path) if path.exists() else pd.DataFrame({"epoch": []})


@dataclass
class Sweep:
    """A sweep file, read and checked.

    Attributes:
        path: The file.
        config: Its content.
        before: Words of run.py before the arguments of a trial.
        after: And after them.
        combinations: Arguments of each trial, in the order of the file; the last parameter changes fastest.
        notes: What the user must know of it.
    """

    path: Path
    config: dict[str, Any]
    before: list[str]
    after: list[str]
    combinations: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.stem

    @property
    def metric(self) -> tuple[str, bool]:
        """Name of the score that decides, and whether higher is better."""
        metric = self.config["metric"]
        return metric["name"], metric.get("goal", "minimize") == "maximize"

    @property
    def command(self) -> list[str]:
        """The command as W&B's agents need it."""
        words = self.config["command"]
        return [*words[: words.index("${program}") + 1], *self.before, self._args, *self.after]

    @property
    def _args(self) -> str:
        return next(word for word in self.config["command"] if word in _ARGS)

    def lines(self) -> list[list[str]]:
        """Words of run.py of each trial, as W&B's agents would write them."""
        form = _ARGS[self._args]
        return [
            [*self.before, *(form.format(key, value) for key, value in chosen.items()), *self.after]
            for chosen in self.combinations
        ]

    def trials(self) -> list[Trial]:
        """All trials, parsed; shows a progress bar. Where two would run in one folder, their names are told apart.

        Raises:
            ConfigError: A key or value that run.py does not take, two trials that are the same, or a folder that holds
                something else.
        """
        trials = self._parsed()
        if twice(trials) and self.tell_apart():
            trials = self._parsed()
        if same := twice(trials):
            differ = ", ".join(sorted({*same[0].words} ^ {*same[1].words})) or "they are the same"
            raise ConfigError(
                f"{self.path}: two trials would run in {same[0].path} ({differ})",
                "name the keys that tell them apart in --run.vary of its command, or list each value once",
            )
        for trial in trials:
            trial.folder.state()
        return trials

    def tell_apart(self) -> bool:
        """Let the swept keys name the runs, unless the file itself says how they are named."""
        named = {_key(word) for word in [*self.before, *self.after]} | {*self.config["parameters"]}
        keys = [key for key in swept(self.config) if key not in IN_FOLDER]
        if named & {"run.vary", "run.name"} or not keys:
            return False
        self.before.append(f"--run.vary=[{','.join(keys)}]")
        return True

    def _parsed(self) -> list[Trial]:
        pace = 0.1 if sys.stderr.isatty() else 10  # seconds; a log keeps every line that a terminal overwrites
        bar = tqdm(self.lines(), desc="checking trials", unit="trial", leave=False, mininterval=pace)
        return [Trial.parse(line) for line in bar]


def twice(trials: Sequence[Trial]) -> tuple[Trial, Trial] | None:
    """The first two trials that share a folder."""
    seen: dict[Path, Trial] = {}
    return next(((other, t) for t in trials if (other := seen.setdefault(t.path, t)) is not t), None)


def swept(config: Mapping[str, Any]) -> list[str]:
    """Keys with more than one value."""
    return [
        key
        for key, value in config["parameters"].items()
        if "value" not in value and len(value.get("values", "..")) > 1
    ]


def _key(word: str) -> str:
    return word.lstrip("-").partition("=")[0]


def load_sweep(path: Path, extra: Sequence[str] = (), random_seed: int = 0, server: bool = False) -> Sweep:
    """Read a sweep file, and say which trials it asks for.

    Args:
        path: The file, or its name in sweeps/.
        extra: Words for every trial, after those of the file.
        random_seed: Of the draws of ``method: random``.
        server: W&B's server chooses the trials, unless it is a grid; ``combinations`` is one example then.

    Raises:
        ConfigError: The file is no sweep, or not one that runs here.
    """
    path = _find(path)
    config = _read(path)
    config.setdefault("command", ["${env}", "${interpreter}", "${program}", "${args}"])
    before, after = _command(path, config)
    sweep = Sweep(path, config, before, [*after, *extra])
    for word in extra:
        if (key := _key(word)) in swept(config) and key != "config":
            raise ConfigError(f"{word}: {path} sweeps {key}", "leave it out here, or write its values into the file")
    method, cap = config["method"], config.get("run_cap")
    if method == "grid":
        sweep.combinations = _grid(path, config)
    elif server:
        sweep.combinations = [{key: _example(parameter) for key, parameter in config["parameters"].items()}]
        sweep.tell_apart()
    elif method != "random":
        raise ConfigError(
            f"{path}: method: {method} needs W&B's server, which chooses each trial by the results of those before",
            "use --backend wandb, or method: random with a run_cap",
        )
    elif not cap:
        raise ConfigError(f"{path}: method: random without a run_cap never ends", "write run_cap: 30")
    else:
        sweep.combinations = _drawn(path, config, cap, random_seed)
    if cap and len(sweep.combinations) > cap:
        sweep.notes.append(f"run_cap: the first {cap} of {len(sweep.combinations)} combinations")
        del sweep.combinations[cap:]
    if "early_terminate" in config and not server:
        sweep.notes.append("early_terminate: only W&B's server ends trials early; here each runs to its own end")
    return sweep


def _find(path: Path) -> Path:
    for place in (path, SWEEPS / path, SWEEPS / f"{path}.yaml"):
        if place.is_file():
            return place
    known = ", ".join(sorted(file.name for file in SWEEPS.glob("*.yaml")))
    raise ConfigError(f"{path}: no such file, nor one in {SWEEPS}", f"choose from {known}")


def _read(path: Path) -> dict[str, Any]:
    """The file, held to what W&B takes of it."""
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        cause = " ".join(str(error).split())
        raise ConfigError(f"{path} is no YAML: {cause}", "mend the line that it names") from error
    if not isinstance(config, dict) or not isinstance(config.get("parameters"), dict) or not config["parameters"]:
        raise ConfigError(f"{path} is no sweep: it has no parameters", f"{SWEEPS} has examples")
    if unknown := sorted(map(str, config.keys() - _KEYS)):
        raise ConfigError(f"{path}: {unknown[0]}: not a key of a sweep", f"choose from {', '.join(sorted(_KEYS))}")
    if config.get("method") not in _METHODS:
        raise ConfigError(f"{path}: method: {config.get('method')}", f"choose from {', '.join(_METHODS)}")
    metric = config.get("metric")
    if not isinstance(metric, dict) or "name" not in metric or metric.get("goal", "minimize") not in _GOALS:
        raise ConfigError(f"{path}: metric: {metric}", "write metric: {name: val/f1_mean, goal: maximize}")
    cap = config.get("run_cap", 1)
    if not isinstance(cap, int) or cap < 1:
        raise ConfigError(f"{path}: run_cap: {cap}", "write the largest number of trials")
    for key, parameter in config["parameters"].items():
        if not isinstance(parameter, dict) or "parameters" in parameter:
            what = f"{path}: {key}: {'nested parameters' if isinstance(parameter, dict) else parameter}"
            raise ConfigError(what, f"write {key}: {{value: ...}} or {{values: [...]}}, with a dotted key")
        if unknown := sorted(map(str, parameter.keys() - {*_PARAMETER})):
            raise ConfigError(f"{path}: {key}: {unknown[0]}: not understood", f"choose from {', '.join(_PARAMETER)}")
        if not isinstance(parameter.get("values", []), list) or not parameter.get("values", [0]):
            raise ConfigError(f"{path}: {key}: values: {parameter['values']}", "write a list")
    return config


def _command(path: Path, config: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Words of run.py before and after the arguments."""
    if Path(str(config.get("program"))).name != "run.py":
        raise ConfigError(f"{path}: program: {config.get('program')}", "write program: experiments/run.py")
    words = [
        re.sub(r"\$\{envvar:(\w+)\}", lambda found: os.environ.get(found[1], found[1]), str(word))
        for word in config["command"]
    ]
    places = [i for i, word in enumerate(words) if word in _ARGS]
    if len(places) != 1 or "${program}" not in words[: places[0]]:
        what = "command: needs ${program} and, behind it, ${args} or ${args_no_hyphens}"
        raise ConfigError(f"{path}: {what}", 'write command: ["${env}", python, "${program}", "${args}"]')
    start = words.index("${program}") + 1
    before, after = words[start : places[0]], words[places[0] + 1 :]
    if foreign := [word for word in [*before, *after] if re.fullmatch(r"\$\{[a-z_]+\}", word) or word == "--folds"]:
        raise ConfigError(f"{path}: command: {foreign[0]} is not understood", "write the words of run.py, and ${args}")
    return before, after


def _grid(path: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    for key, value in config["parameters"].items():
        if not {"value", "values"} & {*value}:
            raise ConfigError(
                f"{path}: {key}: a grid over a range never ends",
                f"list the values: {key}: {{values: [...]}}, or take method: random with a run_cap",
            )
    choices = [value.get("values", [value.get("value")]) for value in config["parameters"].values()]
    return [dict(zip(config["parameters"], chosen, strict=True)) for chosen in product(*choices)]


def _drawn(path: Path, config: Mapping[str, Any], number: int, seed: int) -> list[dict[str, Any]]:
    """So many random combinations, but each once; the first do not depend on how many there are."""
    draws = np.random.default_rng(seed)
    combinations = [
        {key: _draw(path, key, parameter, draws) for key, parameter in config["parameters"].items()}
        for _ in range(number)
    ]
    return list({repr(combination): combination for combination in combinations}.values())


def _example(parameter: Mapping[str, Any]) -> Any:
    values = parameter.get("values", [parameter.get("value", parameter.get("min", parameter.get("mu")))])
    return values[0]


def _draw(path: Path, key: str, parameter: Mapping[str, Any], draws: np.random.Generator) -> Any:
    if parameter.keys() <= {"value", "values"}:
        values = parameter.get("values", [parameter.get("value")])
        return values[draws.integers(len(values))]
    low, high = parameter.get("min", 1), parameter.get("max", 0)
    whole = isinstance(low, int) and isinstance(high, int)
    kind = parameter.get("distribution", "int_uniform" if whole else "uniform")
    if kind == "int_uniform" and low <= high:
        return int(draws.integers(low, high, endpoint=True))
    if kind == "uniform" and low <= high:
        return float(draws.uniform(low, high))
    if kind == "log_uniform_values" and 0 < low <= high:
        return float(np.exp(draws.uniform(np.log(low), np.log(high))))
    raise ConfigError(
        f"{path}: {key}: {dict(parameter)} cannot be drawn from",
        "take uniform, int_uniform or log_uniform_values with min <= max (log: above 0), or --backend wandb",
    )


def check_writable(folder: Path) -> None:
    """Raises `ConfigError` where no file can be written in a folder, which is made if need be."""
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise unwritable(folder, error) from error

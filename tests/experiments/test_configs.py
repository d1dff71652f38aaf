"""Every configuration parses, instantiates, and fits and tests on a twin with the smoke overlay."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pytorch_lightning.plugins.precision import MixedPrecision
from torch._dynamo.utils import counters

import experiments.run
from datamodules.errors import DataError
from datamodules.mixture import DATASETS
from experiments import explain, fold
from experiments.cli import CONFIGS, SuiteCLI, config_hash, normalise
from experiments.run import main
from experiments.run_folder import RunFolder
from experiments.sweeping.plan import load_sweep
from lightning_modules.common.classifier import AUClassifier
from lightning_modules.common.errors import ModelError

FILES = sorted(path.name for path in CONFIGS.glob("[!_]*.yaml"))
OVERLAYS = sorted(path.name for path in (CONFIGS / "overlays").glob("*.yaml"))
VARIANTS = sorted(path.name for path in (CONFIGS / "variants").glob("*.yaml"))
SWEEPS = sorted(path.name for path in (CONFIGS.parents[1] / "sweeps").glob("*.yaml"))
TWINS = {
    "AffWild2": "synth:affwild2?release=abaw1&frames=24&size=64&preset=aunet",
    "BP4D": "synth:bp4d?subjects=12&tasks=1&frames=4&size=64&preset=aunet",
    "CAERS": "synth:caer_s?subjects=4&size=64&preset=aunet",
    "BP4DPlus": "synth:bp4d_plus?subjects=8&tasks=1&frames=4&size=64",
    "DISFA": "synth:disfa?subjects=27&frames=6&size=128&preset=aunet",
    "MultiPIE": "synth:multi_pie?subjects=10&size=64&cameras=05_1&shots=7&preset=aunet",
    "SynthFACS": "synth:synth_facs?subjects=36&frames=3&size=64&stride=60&rates=balanced&preset=aunet",
}
# AUs that the few frames of a twin show, for models that refuse to be trained on an AU that never occurs.
SHOWN = {"AffWild2": [6, 12], "BP4D": [10, 12, 14], "DISFA": [1, 4, 12, 25], "SynthFACS": [1, 4, 12, 25]}
# Twins whose videos are long enough for these AUs to change in them.
CHANGING = {
    "AffWild2": ("synth:affwild2?release=abaw2&frames=24&size=64&preset=aunet", [6, 12]),
    "BP4D": ("synth:bp4d?subjects=8&tasks=1&frames=40&size=64&preset=pairwise", [7, 10]),
    "DISFA": ("synth:disfa?subjects=9&frames=50&size=64&preset=pairwise", [4, 25]),
    "SynthFACS": (TWINS["SynthFACS"], [4, 25]),
}
MIXED = [1, 4, 7, 10, 12, 14]
CODED = {"AffWild2": [1, 4, 12], "BP4D": [1, 4, 7, 10, 12, 14], "DISFA": [1, 4, 12]}  # of them


def smoke_words(name: str) -> list[str]:
    """Command line that trains a configuration on a twin."""
    words = ["--config", name, "--config", "overlays/smoke.yaml"]
    config = SuiteCLI(normalise(words)).config
    data, model = (config[part].class_path.rpartition(".")[2] for part in ("data", "model"))
    if data == "Mixture":
        asked = {side: config.data.init_args[side] or {} for side in ("train", "test")}
        roots = [f"--data.{side}.{key}={TWINS[DATASETS[key].__name__]}" for side in asked for key in asked[side]]
        words += [*roots, f"--data.aus={[12] if asked['test'] else MIXED}"]  # 12 is what all twins show
        words += ["--data.neighbours=1"] * (not asked["test"])
    elif name.startswith("pairwise"):
        root, aus = CHANGING[data]
        words += [f"--data.root={root}", f"--data.aus={aus}", "--data.val_subjects=2"]
        if config.data.init_args.pairs.train:
            words += ["--data.pairs.train=8", "--data.pairs.val=4"]
        if config.data.init_args.pseudo.predictions:
            words += ["--data.pseudo.window=3", "--data.pseudo.balanced=8", "--model.hidden=8"]
    else:
        words += [f"--data.root={TWINS[data]}"]
    if data != "Mixture" and name.startswith("aunet"):
        aus = (CODED if "mixture" in name else SHOWN)[data]
        words += [f"--data.aus={aus}", f"--data.neighbours={60 if data == 'SynthFACS' else 1}"]
    if name.startswith("transfer"):
        words += ["--run.epochs=val"] if data == "MultiPIE" else ["--data.edition=abaw1", "--data.aus=[6, 12]"]
        words += ["--data.val_subjects=1"]
    if model in ("PairwiseRanker", "UncertaintyRanker"):
        words += ["--model.backbone=resnet10t"]
    if model == "MEGraphAU":
        words += [f"--data.aus={SHOWN[data]}"]
    if name.startswith("emotiram_megraph"):
        stage = "BP4D" if "bp4d" in name else "DISFA" if "disfa" in name else "SynthFACS"
        words += [f"--model.body_aus={SHOWN[stage]}"]
    rankers, emotions = ("PairwiseRanker", "UncertaintyRanker"), ("EmotiRAMFAU", "EmotiRAMFace")
    expressions = ("ExpressionClassifier", "TransferAU")
    small = ("AUNet", "FaceAligner", "HeatmapFAU", "MEGraphAU", *rankers, *emotions, *expressions)
    whole = model in ("RENet", "BaselineAU") and config.model.init_args.width == 1
    return [*words, *["--model.width=0.125"] * (model in small or whole)]


@pytest.mark.parametrize("overlay", ["", *OVERLAYS])
@pytest.mark.parametrize("name", FILES)
def test_it_parses_and_instantiates(name: str, overlay: str) -> None:
    overlays = ["--config", f"overlays/{overlay}"] if overlay else []
    cli = SuiteCLI(normalise(["--config", name, *overlays]))
    assert cli.config.run.name == Path(name).stem
    if not overlay:
        with torch.device("meta" if name.startswith("pairwise") else "cpu"):  # twelve VGG16 would fill the memory
            model, data = cli.build()
        assert model.aus == data.aus
        cli.make_trainer(logger=False, accelerator="cpu")


@pytest.fixture(scope="module")
def smoke_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them run, so that a stage which several require runs once."""
    return tmp_path_factory.mktemp("smoke")


@pytest.fixture
def requirements_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run what a configuration requires by the command line that run.py makes of it, on twins, in this process."""

    def run(line: list[str], check: bool, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        values = smoke_words(Path(line[3]).name)[4:]  # without the two configurations, which the line has
        return subprocess.CompletedProcess(line, main([*line[2:], *values]))

    monkeypatch.setattr(experiments.run, "subprocess", SimpleNamespace(run=run))


@pytest.mark.usefixtures("requirements_in_process")
@pytest.mark.filterwarnings("ignore:Relations of these AUs")  # a handful of faces correlates as it likes
@pytest.mark.parametrize("name", FILES)
def test_it_fits_and_tests_on_a_twin(name: str, smoke_root: Path) -> None:
    assert main([*smoke_words(name), f"--trainer.default_root_dir={smoke_root}"]) == 0
    folder = smoke_root / Path(name).stem / "fold1-seed0"
    result = json.loads((folder / "result.json").read_text())
    ledger = pd.read_parquet(folder / "predictions.parquet")
    assert (folder / "DONE").exists()
    if "mixture" in result["dataset"]:
        ledger["subject"] = ledger["dataset"] + "/" + ledger["subject"]
    assert set(ledger["subject"]) <= set(result["held_out_subjects"])
    assert len(ledger) == result["n_frames"] > 0
    for required in SuiteCLI(normalise(["--config", name])).config.run.requires:
        stage = ["--config", *shlex.split(required), f"--trainer.default_root_dir={smoke_root}"]
        done = RunFolder.of(SuiteCLI(normalise(stage))).path  # its checkpoint, or its ledgers
        assert str(done) in (folder / "config.yaml").read_text()


@pytest.mark.usefixtures("requirements_in_process")
@pytest.mark.filterwarnings("ignore:Relations of these AUs", "ignore:You passed `Trainer.precision=")
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", [name for name in FILES if "synthetic" in name])
def test_half_precision_learns_what_single_precision_does(
    name: str, precision: Any, smoke_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the first epoch is that of single precision, and every prediction is a number.

    Lightning knows float16 on GPUs alone and torch on CPUs too, with the same scaling of the loss; it starts low enough
    here for no step to be left out.
    """
    words = [*smoke_words(name), f"--trainer.default_root_dir={smoke_root}"]
    assert main(words) == 0  # or it is done; its stages serve all three
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8) if precision == "16-mixed" else None
    monkeypatch.setattr(fold, "plugins", lambda _: [MixedPrecision(precision, "cpu", scaler)])
    assert main([*words, f"--run.name={Path(name).stem}_{precision}"]) == 0
    single, half = (smoke_root / f"{Path(name).stem}{kind}" / "fold1-seed0" for kind in ("", f"_{precision}"))
    assert json.loads((half / "result.json").read_text())["precision"] == precision
    first = [pd.read_csv(folder / "metrics.csv")["train/loss"][0] for folder in (single, half)]
    np.testing.assert_allclose(first[1], first[0], rtol=0.02)
    ledgers = [pd.read_parquet(folder / "predictions.parquet").select_dtypes("float32") for folder in (single, half)]
    assert np.array_equal(*(np.isfinite(ledger) for ledger in ledgers))
    assert np.isfinite(ledgers[1]).any(axis=None)


@pytest.mark.usefixtures("requirements_in_process")
def test_aunet_is_scored_on_a_dataset_that_it_has_not_seen(smoke_root: Path) -> None:
    """What BP4D trained, fold 0 and so without held-out subjects, answers for the AU that DISFA codes too."""
    root = f"--trainer.default_root_dir={smoke_root}"
    assert main([*smoke_words("aunet_bp4d.yaml"), root, "--fold", "0"]) == 0
    best = smoke_root / "aunet_bp4d" / "fold0-seed0" / "checkpoints" / "best.ckpt"
    alone = ["--run.requires=[]", "--model.fan_checkpoint=null", "--model.vae_checkpoint=null"]
    words = [*smoke_words("aunet_disfa.yaml"), root, *alone, f"--run.checkpoint={best}", "--run.name=cross"]
    with pytest.raises(ModelError, match="knows no AU") as fault:
        main(words)
    assert fault.value.remedy == "set data.aus=[12]"
    assert main([*words, "--data.aus=[12]"]) == 0
    ledger = pd.read_parquet(smoke_root / "cross" / "fold1-seed0" / "predictions.parquet")
    assert {name for name in ledger if name.endswith("_prob")} == {"AU12_prob"}
    result = json.loads((smoke_root / "cross" / "fold1-seed0" / "result.json").read_text())
    assert (result["trained_on"], result["dataset"]) == ("bp4d", "disfa")
    assert ledger["landmark_confidence"].between(0, 1).all()


@pytest.mark.usefixtures("requirements_in_process")
def test_an_emotion_network_is_explained(smoke_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From run folders alone: what its AUs were before and after it learnt emotions."""
    root = f"--trainer.default_root_dir={smoke_root}"
    assert main([*smoke_words("emotiram_synthetic.yaml"), root]) == 0
    run = smoke_root / "emotiram_synthetic"
    assert explain.main([str(run), "--bootstrap", "20"]) == 0
    kept = sorted(path.name for path in (run / "fold1-seed0").glob("predictions_*s_*.parquet"))
    assert kept == [f"predictions_{name}.parquet" for name in ("aus_after", "aus_before", "emotions_before")]
    before, after = (
        pd.read_parquet(run / "fold1-seed0" / f"predictions_aus_{when}.parquet") for when in ("before", "after")
    )
    stage = pd.read_parquet(smoke_root / "heatmap_fau_synthetic" / "fold1-seed0" / "predictions.parquet")
    shared = before.merge(stage, on=["subject", "sequence", "frame"], suffixes=("", "_of_the_stage"))
    assert len(shared) == len(stage) > 0
    np.testing.assert_allclose(shared["AU12_expected"], shared["AU12_expected_of_the_stage"], rtol=1e-4)
    assert not np.allclose(before["AU12_expected"], after["AU12_expected"], rtol=1e-2, atol=0)
    printed = capsys.readouterr().out
    assert "paper: EmotiRAM-FAU-ME-Graph" in printed
    assert {path.name.partition("_")[0] for path in (run / "explanation" / "figures").iterdir()} == {
        "profile",
        "panels",
        "heatmaps",
    }
    assert (run / "explanation" / "explanation.html").exists()
    assert main([*smoke_words("emotiram_f_synthetic.yaml"), root]) == 0
    with pytest.raises(DataError, match="rest on no AUs"):
        explain.main([str(smoke_root / "emotiram_f_synthetic")])
    scratch = ["--config", "variants/emotiram_scratch.yaml", root]
    assert main([*smoke_words("emotiram_synthetic.yaml"), *scratch]) == 0
    with pytest.raises(DataError, match="started from no AU stage"):
        explain.main([str(smoke_root / "emotiram_synthetic-emotiram_scratch")])


HASHES: dict[Path, str] = {}  # run folders of all sweeps


def apart(line: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words that say what is trained, and those that only say on which fold and by which seed."""
    only = ("--data.fold=", "--seed_everything=")
    return tuple(w for w in line if not w.startswith(only)), tuple(w for w in line if w.startswith(only))


@pytest.mark.parametrize("name", SWEEPS)
def test_every_combination_of_a_sweep_parses_into_a_run_of_its_own(name: str) -> None:
    sweep = load_sweep(Path(name))
    content = yaml.safe_load((CONFIGS.parents[1] / "sweeps" / name).read_text())
    lines = sweep.lines()
    assert len(lines) == content["run_cap"] == len({*map(tuple, lines)})
    what = list(dict.fromkeys(apart(line)[0] for line in lines))
    when = list(dict.fromkeys(apart(line)[1] for line in lines))
    assert len(what) * len(when) == len(lines)
    assert all(len(words) == 2 for words in when), "fold and seed are among the parameters"
    parsed = [SuiteCLI(normalise([*words, *when[0]])) for words in what]
    assert len({cli.config.run.name for cli in parsed}) == len(what)
    for folder in map(RunFolder.of, parsed):
        assert HASHES.setdefault(folder.path, folder.hash) == folder.hash, (
            f"another sweep has other runs in {folder.path}"
        )
    folders = {RunFolder.of(SuiteCLI(normalise([*what[0], *words]))).path.name for words in when}
    assert len(folders) == len(when)
    config = parsed[0].config
    model, data = (locate(config[part].class_path) for part in ("model", "data"))
    intensity = issubclass(model, AUClassifier) and config.model.init_args.get("task") == "intensity"
    decides = ("val/icc_mean" if intensity else model.monitor, model.monitor_mode == "max")
    trained = config.run.checkpoint is None
    assert sweep.metric == (decides if trained else ("test/f1_mean", True))
    dataset, epochs = data.__name__, config.trainer.max_epochs if trained else "–"
    costs = (CONFIGS.parents[1] / "docs" / "scale.md").read_text()
    assert f"| `{Path(name).stem}` | {dataset} | {len(lines)} | {epochs} |" in costs
    folds = {int(words[-1].partition("=")[2]) for words in map(sorted_by_key, when)}
    assert folds <= set(range(1, data(**config.data.init_args.as_dict()).n_folds + 1))


def sorted_by_key(words: tuple[str, ...]) -> list[str]:
    """The seed, then the fold."""
    return sorted(words, key=lambda word: "data.fold" in word)


@pytest.mark.parametrize("name", SWEEPS)
def test_wandb_takes_every_sweep_as_it_stands(name: str, wandb_schema: Any) -> None:
    content = yaml.safe_load((CONFIGS.parents[1] / "sweeps" / name).read_text())
    del content["run_cap"]  # which W&B documents, and the schema of its package for NumPy 2 does not know yet
    assert wandb_schema(content) == []
    assert wandb_schema(content | {"method": "grd"})


def first_runs(pattern: str) -> Iterator[tuple[str, list[str]]]:
    """The configuration that is varied and the command line, in fold 1 by seed 0, of what sweeps run."""
    for path in sorted((CONFIGS.parents[1] / "sweeps").glob(pattern)):
        for line in load_sweep(path).lines():
            if {"--data.fold=1", "--seed_everything=0"} <= {*line}:
                config = [word.removeprefix("--config=") for word in line if word.startswith("--config=")]
                yield "".join(config).removeprefix("variants/"), line


def test_every_variant_of_aunet_is_in_a_sweep_and_is_what_it_is_called() -> None:
    built = {}
    for config, line in first_runs("aunet*"):
        if config in built or not config or "mixture" in "".join(line):
            continue
        model, data = SuiteCLI(normalise([*line, "--model.width=0.125", "--model.pretrained=false"])).build()
        built[config] = model
        assert bool(data.neighbours) == model.temporal
        assert model.check(None) is None if not model.has_vae and model.backbone != "fan" else True
    names = {name: model.variant for name, model in built.items()}
    expected = {
        "au_fan.yaml": "AU-FAN",
        "au_vae.yaml": "AU-VAE",
        "au_tdn.yaml": "AU-TDN",
        "resnet18.yaml": "resnet18",
        "resnet18_imagenet.yaml": "resnet18 frozen",
        "resnet18_a.yaml": "resnet18 VAE TDN",
        "aunet_bp4d_to_disfa.yaml": "AU-FAN",
        "aunet_bp4d_to_affwild2.yaml": "AU-FAN",
        "cross_resnet18.yaml": "resnet18",
    }
    assert names == {name: "AUNet" for name in names if name.startswith("aunet")} | expected


def test_initialisations_of_transfer_au_are_what_they_are_called() -> None:
    found = {}
    for name, line in first_runs("transfer_initialisation.yaml"):
        config = SuiteCLI(normalise(line)).config
        model = config.model.init_args
        found[name] = (bool(model.backbone_checkpoint), model.pretrained, model.frozen, config.run.requires)
    stage = ["transfer_multi_pie.yaml --fold 0"]
    assert found == {
        "transfer_affwild2.yaml": (True, False, False, stage),
        "transfer_frozen.yaml": (True, False, True, stage),
        "transfer_imagenet.yaml": (False, True, False, []),
        "transfer_scratch.yaml": (False, False, False, []),
    }


def test_the_variants_of_emotiram_are_what_they_are_called() -> None:
    small = ["--model.width=0.125", "--model.hidden=[8]"]
    built = {}
    for name, line in first_runs("emotiram_initialisation.yaml"):
        cli = SuiteCLI(normalise([*line, *small]))
        given = cli.config.model.init_args
        initialisation = given.backbone_checkpoint and given.backbone_checkpoint.split("/")[-4]
        built[name] = (
            initialisation or ("imagenet" if given.pretrained else "none"),
            given.frozen,
            given.scc,
            given.au_loss_weight > 0,
            cli.config.run.requires != [],
        )
    assert built == {
        "emotiram_fau_caer_s.yaml": ("heatmap_fau_bp4d", False, "none", False, True),
        "emotiram_frozen.yaml": ("heatmap_fau_bp4d", True, "none", False, True),
        "emotiram_imagenet.yaml": ("imagenet", False, "none", False, False),
        "emotiram_imagenet_frozen.yaml": ("imagenet", True, "none", False, False),
        "emotiram_scratch.yaml": ("none", False, "none", False, False),
        "emotiram_scratch_frozen.yaml": ("none", True, "none", False, False),
        "emotiram_scc.yaml": ("heatmap_fau_bp4d_scc", False, "channel", False, True),
        "emotiram_au_loss.yaml": ("heatmap_fau_bp4d", False, "none", True, True),
    }


def test_every_variant_is_in_a_sweep() -> None:
    text = "".join((CONFIGS.parents[1] / "sweeps" / name).read_text() for name in SWEEPS)
    assert [name for name in VARIANTS if f"variants/{name}" not in text] == []


def test_a_variant_names_its_run_after_itself() -> None:
    words = ["--config", "aunet_disfa.yaml", "--config", "variants/au_fan.yaml", "--config", "overlays/cpu.yaml"]
    assert SuiteCLI(normalise(words)).config.run.name == "aunet_disfa-au_fan"


# One configuration of each model class, a rendered one where there is one.
COMPILED = {
    yaml.safe_load((CONFIGS / name).read_text())["model"]["class_path"]: name
    for name in sorted(FILES, key=lambda name: "_synthetic" in name)
}


OF_EACH_PAPER = ("RENet", "AUNet", "UncertaintyRanker", "TransferAU", "EmotiRAMFAU", "MEGraphAU")


@pytest.mark.usefixtures("requirements_in_process")
@pytest.mark.parametrize(
    "kind", [kind if kind in OF_EACH_PAPER else pytest.param(kind, marks=pytest.mark.slow) for kind in COMPILED]
)
def test_a_network_compiles_without_graph_breaks(kind: str, smoke_root: Path) -> None:
    words = [*smoke_words(COMPILED[kind]), f"--trainer.default_root_dir={smoke_root}"]
    given = SuiteCLI(normalise(words)).config.data.init_args
    if given.pseudo.predictions:
        assert main(words) == 0  # the run of another test, whose requirements have left these predictions
    elif given.aus and "_synthetic" in COMPILED[kind]:
        words += ["--data.aus=[1, 12]"]  # RE-Net runs once for each
    model, data = SuiteCLI(normalise(words)).build()
    data.prepare_data()
    data.setup()
    batch = next(iter(data.train_dataloader()))
    torch._dynamo.reset()
    counters.clear()
    model.network.compile(backend="eager", fullgraph=True)  # which raises at a break
    torch.stack(list(model.train().losses(batch).values())).sum().backward()
    with torch.no_grad():
        model.eval().predictions(batch)
    assert counters["stats"]["unique_graphs"] > 0
    unused = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert unused == [], "DDP waits for their gradients"


def test_a_mixture_counts_by_what_its_stores_hold(tmp_path: Path) -> None:
    def settings(root: Path, content: str) -> dict[str, Any]:
        root.mkdir()
        (root / "manifest.json").write_text(json.dumps({"preprocessing": content, "shards": {}}))
        data = ["--data=Mixture", f"--data.train.bp4d={root}", "--data.test.disfa=nowhere", "--data.aus=[1, 2]"]
        model = ["--model=RENet", "--model.aus=${data.init_args.aus}"]
        return SuiteCLI(normalise(["--run.name=mixture", *data, *model])).settings

    first, moved, other = (settings(tmp_path / name, name.strip("12")) for name in ("a1", "a2", "b"))
    assert first["data"]["init_args"]["train"] == {"bp4d": str(tmp_path / "a1")}
    assert config_hash(first) == config_hash(moved) != config_hash(other)

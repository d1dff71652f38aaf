"""Every configuration parses, instantiates, and fits and tests on a twin with the smoke overlay."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.cli import CONFIGS, SuiteCLI, config_hash, normalise
from experiments.run import main

FILES = sorted(path.name for path in CONFIGS.glob("[!_]*.yaml"))
OVERLAYS = sorted(path.name for path in (CONFIGS / "overlays").glob("*.yaml"))
TWINS = {
    "BP4D": "synth:bp4d?subjects=6&tasks=1&frames=4&size=64",
    "BP4DPlus": "synth:bp4d_plus?subjects=8&tasks=1&frames=4&size=64",
    "DISFA": "synth:disfa?subjects=27&frames=6&size=128",
    "SynthFACS": "synth:synth_facs?subjects=36&frames=3&size=64&stride=60&rates=balanced",
}


def twin(cli: SuiteCLI) -> str:
    return TWINS[cli.config.data.class_path.rpartition(".")[2]]


@pytest.mark.parametrize("overlay", ["", *OVERLAYS])
@pytest.mark.parametrize("name", FILES)
def test_it_parses_and_instantiates(name: str, overlay: str) -> None:
    overlays = ["--config", f"overlays/{overlay}"] if overlay else []
    cli = SuiteCLI(normalise(["--config", name, *overlays]))
    model, data = cli.build()
    assert model.aus == data.aus
    assert cli.config.run.name == Path(name).stem
    cli.make_trainer(logger=False, accelerator="cpu")


@pytest.mark.filterwarnings("ignore:Relations of these AUs")  # a handful of faces correlates as it likes
@pytest.mark.parametrize("name", FILES)
def test_it_fits_and_tests_on_a_twin(name: str, tmp_path: Path) -> None:
    words = ["--config", name, "--config", "overlays/smoke.yaml", f"--trainer.default_root_dir={tmp_path}"]
    root = twin(SuiteCLI(normalise(words)))
    assert main([*words, f"--data.root={root}"]) == 0
    folder = tmp_path / Path(name).stem / "fold1-seed0"
    result = json.loads((folder / "result.json").read_text())
    ledger = pd.read_parquet(folder / "predictions.parquet")
    assert (folder / "DONE").exists()
    assert set(ledger["subject"]) <= set(result["held_out_subjects"])
    assert len(ledger) == result["n_frames"] > 0


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

from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli import CONFIGS, ConfigError, SuiteCLI, config_hash, find_config, normalise

RENET = ["--config", "renet_disfa.yaml"]


def parse(*words: str) -> SuiteCLI:
    return SuiteCLI(normalise([*RENET, *words]))


def test_what_people_type_becomes_what_the_parser_takes() -> None:
    words = ["model.lr=0.1", "--config", "renet_disfa.yaml", "--fold", "2", "--seed=3", "model.pretrained=None"]
    config, path, *rest = normalise(words)
    assert config == "--config"
    assert Path(path) == CONFIGS / "renet_disfa.yaml"
    assert rest == ["--model.lr=0.1", "--data.fold=2", "--seed_everything=3", "--model.pretrained=null"]


def test_overrides_reach_interpolations() -> None:
    cli = parse("--data.aus=[4, 12]", "--seed", "7")
    assert cli.config.model.init_args.aus == [4, 12]
    assert cli.config.model.init_args.seed == cli.config.data.init_args.seed == 7


def test_a_second_config_wins_and_the_command_line_wins_over_it() -> None:
    cli = parse("--config", "overlays/smoke.yaml", "--data.batch_size=5")
    assert cli.config.model.class_path.endswith("RENet")
    assert cli.config.model.init_args.pretrained is False
    assert cli.config.data.init_args.image_size == 64
    assert cli.config.data.init_args.batch_size == 5
    assert cli.config.trainer.max_epochs == 1


def test_an_override_of_a_sweep_agent_may_stand_before_the_config() -> None:
    cli = SuiteCLI(normalise(["--model.lr=0.5", *RENET]))
    assert cli.config.model.init_args.lr == 0.5


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--model.lrr=1"], "lrr"),
        (["--model.lr=abc"], "model.lr"),
        (["--model.relation=friendly"], "model.relation"),
        (["--data.folds=1"], "folds"),
        (["--data.batch_size=many"], "data.batch_size"),
        (["--run.tracker=paper"], "run.tracker"),
        (["--trainer.max_epoch=3"], "max_epoch"),
        (["--early_stopping.patience=x"], "early_stopping.patience"),
    ],
)
def test_a_wrong_key_or_type_is_named(words: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as refused:
        parse(*words)
    assert refused.value.remedy
    assert len(str(refused.value).splitlines()) == 1


def test_a_wrong_key_in_a_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump({"model": {"init_args": {"learning_rate": 1}}}))
    with pytest.raises(ConfigError, match="learning_rate"):
        parse("--config", str(broken))


def test_an_unknown_config_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="renet_disfaa") as refused:
        find_config("renet_disfaa.yaml")
    assert "renet_disfa.yaml" in refused.value.remedy
    (tmp_path / "torn.yaml").write_text("model: [1, 2\n")
    with pytest.raises(ConfigError, match=r"torn\.yaml is no YAML.*line 2"):
        find_config(str(tmp_path / "torn.yaml"))
    with pytest.raises(ConfigError, match="nothing follows"):
        normalise(["--config"])


def settings(*words: str) -> dict[str, Any]:
    return parse(*words).settings


def test_the_hash_follows_what_changes_the_numbers() -> None:
    base = config_hash(settings())
    for same in (
        ["--run.name=other", "--run.tracker=none"],
        ["--data.num_workers=0"],
        ["--trainer.devices=1", "--trainer.default_root_dir=elsewhere", "--trainer.accelerator=cpu"],
    ):
        assert config_hash(settings(*same)) == base, same
    for other in (
        ["--model.lr=1"],
        ["--seed", "1"],
        ["--fold", "2"],
        ["--trainer.precision=bf16-mixed"],
        ["--run.refit=true"],
    ):
        assert config_hash(settings(*other)) != base, other


def test_a_checkpoint_counts_by_its_content(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / name for name in ("one.ckpt", "copy.ckpt", "other.ckpt"))
    one.write_bytes(b"weights")
    copy.write_bytes(b"weights")
    other.write_bytes(b"other weights")
    hashes = [config_hash(settings(f"--model.backbone_checkpoint={path}")) for path in (one, copy, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_written_configuration_runs_again(tmp_path: Path) -> None:
    first = settings("--model.lr=0.25", "--data.aus=[1, 4]")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(first))
    again = SuiteCLI(normalise(["--config", str(file)])).settings
    assert again == first


def test_settings_of_a_kind_of_sample_that_a_run_has_not_count_for_nothing() -> None:
    def hash_of(config: str, *words: str) -> str:
        return config_hash(SuiteCLI(normalise(["--config", config, *words])).settings)

    ranker, mapper = "pairwise_disfa_ranker.yaml", "pairwise_disfa.yaml"
    assert hash_of(ranker) == hash_of(ranker, "--data.pseudo.window=7")
    assert hash_of(ranker) != hash_of(ranker, "--data.pairs.val=7")
    assert hash_of(mapper) != hash_of(mapper, "--data.pseudo.window=7")

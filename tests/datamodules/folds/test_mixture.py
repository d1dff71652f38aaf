from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from datamodules.bp4d import BP4D
from datamodules.disfa import DISFA
from datamodules.errors import DataError
from datamodules.facs import EXPRESSIONS, MULTI_PIE_EXPRESSIONS
from datamodules.mixture import Mixture
from lightning_modules import RENet
from lightning_modules.common.errors import ModelError
from lightning_modules.common.weights import check_leakage

DISFA_PARTS = {1: {"SN001", "SN002"}, 2: {"SN006"}, 3: {"SN003", "SN004"}}
BP4D_PARTS = {1: {"F001", "M004"}, 2: {"F003"}, 3: {"F004", "M003"}}
AUS = [12, 1, 23, 6]  # DISFA codes 1, 6 and 12 by intensity, BP4D 6, 12 and 23


@pytest.fixture(scope="module")
def roots(store: Callable[..., Path], record: Callable[..., Any]) -> dict[str, str]:
    """DISFA: three frames a subject, AU12 at level f; BP4D: two, AU12 present in the second, AU06 unknown."""
    disfa = [
        record(subject, "left", f, {"AU01_intensity": 0, "AU06_intensity": 2, "AU12_intensity": f})
        for subject in sorted(set.union(*DISFA_PARTS.values()))
        for f in range(3)
    ]
    bp4d = [
        record(subject, "T1", f, {"AU06": -1, "AU12": f - 1, "AU23": 1, "AU12_intensity": 4})
        for subject in sorted(set.union(*BP4D_PARTS.values()))
        for f in (1, 2)
    ]
    return {"disfa": str(store("disfa", disfa)), "bp4d": str(store("bp4d", bp4d))}


@pytest.fixture(scope="module")
def mix(roots: dict[str, str], opened: Callable[..., Any]) -> Callable[..., Any]:
    return lambda fold=1, train=roots, aus=AUS, **settings: opened(Mixture, train, fold, aus=aus, **settings)


def keys(loader: Any) -> set[str]:
    return {f"{d}/{s}" for batch in loader for d, s in zip(batch["dataset"], batch["subject"], strict=True)}


@pytest.mark.parametrize("fold", [0, 1, 2, 3])
def test_a_fold_holds_out_its_part_of_each_dataset(mix: Callable[..., Any], fold: int) -> None:
    data = mix(fold)
    parts = {"disfa": DISFA_PARTS, "bp4d": BP4D_PARTS}
    held_out = {f"{name}/{s}" for name, of in parts.items() for s in of.get(fold, set())}
    everybody = {f"{name}/{s}" for name, of in parts.items() for part in of.values() for s in part}
    train, val, test = keys(data.train_dataloader()), keys(data.val_dataloader()), keys(data.test_dataloader())
    assert test == held_out == set(data.subjects_test)
    assert Counter(name.partition("/")[0] for name in val) == {"disfa": 1, "bp4d": 1}
    assert train | val | test == everybody
    assert len(train) + len(val) + len(test) == 10
    state = data.state_dict()
    assert set(state["test_persons"]) == held_out
    assert (state["dataset"], state["split"]) == ("mixture(disfa+bp4d)", "3fold")
    assert state["member_aus"] == {member.dataset: member.aus for member in data.members}


def test_labels_that_a_dataset_lacks_are_unknown(mix: Callable[..., Any]) -> None:
    data = mix(label_threshold=2)
    batches = [*data.val_dataloader(), *data.test_dataloader(), *data.predict_dataloader()]
    assert sorted(int(i) for batch in batches for i in batch["index"]) == list(range(25))  # each frame once
    found: dict[tuple[str, int], set[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
    for batch in batches:
        row = (tuple(batch["au"][0].tolist()), tuple(batch["intensity"][0].tolist()))
        found.setdefault((batch["dataset"][0], int(batch["frame"])), set()).add(row)
    assert found == {
        ("disfa", 0): {((0, 0, -1, 1), (0, 0, -1, 2))},
        ("disfa", 1): {((0, 0, -1, 1), (1, 0, -1, 2))},
        ("disfa", 2): {((1, 0, -1, 1), (2, 0, -1, 2))},
        ("bp4d", 1): {((0, -1, 1, -1), (4, -1, -1, -1))},
        ("bp4d", 2): {((1, -1, 1, -1), (4, -1, -1, -1))},
    }


def test_training_labels_are_those_of_both(mix: Callable[..., Any]) -> None:
    data = mix(1)
    labels = data.train_labels("occurrence")
    assert labels.shape == (len(data.rows_train), 4)
    train = [name.partition("/")[0] for name in data.subjects_train]
    assert (labels[:, 1] == -1).sum() == 2 * train.count("bp4d")
    assert (labels[:, 2] == -1).sum() == 3 * train.count("disfa")


def test_cross_dataset_trains_on_one_and_tests_on_all_of_the_other(
    mix: Callable[..., Any], roots: dict[str, str]
) -> None:
    data = mix(1, {"bp4d": roots["bp4d"]}, [23, 12], test={"disfa": roots["disfa"]}, val_subjects=2)
    assert keys(data.test_dataloader()) == {f"disfa/{s}" for part in DISFA_PARTS.values() for s in part}
    assert len(data.rows_test) == 15
    assert len(data.subjects_val) == 2
    assert len(data.subjects_train) == 3
    state = data.state_dict()
    assert (state["dataset"], state["split"]) == ("mixture(bp4d -> disfa)", "cross-dataset")
    assert data.n_folds == 1
    assert {batch["dataset"][0] for batch in data.val_dataloader()} == {"bp4d"}


def disfa_plus(store: Callable[..., Path], record: Callable[..., Any]) -> str:
    labels = {"AU01_intensity": 0, "AU06_intensity": 0, "AU12_intensity": 1}
    people = ("SN001", "SN003", "SN004", "SN013")
    return str(store("disfa_plus", [record(s, "A1_AU1_TrailNo_1", f, labels) for s in people for f in (0, 1)]))


def test_people_of_the_training_are_not_tested_under_another_dataset(
    store: Callable[..., Path], record: Callable[..., Any], roots: dict[str, str], opened: Callable[..., Any]
) -> None:
    tested = {"disfa_plus": disfa_plus(store, record)}
    with pytest.raises(DataError, match="disfa/SN001, disfa/SN003, disfa/SN004"):
        opened(Mixture, {"disfa": roots["disfa"]}, aus=[1, 12], test=tested)


@pytest.mark.parametrize("seed", range(6))
def test_a_person_in_two_datasets_is_on_one_side(
    store: Callable[..., Path], record: Callable[..., Any], roots: dict[str, str], opened: Callable[..., Any], seed: int
) -> None:
    train = {"disfa": roots["disfa"], "disfa_plus": disfa_plus(store, record)}
    data = opened(Mixture, train, 2, aus=[1, 12], val_subjects=2, seed=seed)
    persons = {
        side: {name.partition("/")[2] for name in getattr(data, f"subjects_{side}")} for side in ("train", "val")
    }
    assert data.subjects_test == ["disfa/SN006", "disfa_plus/SN013"]
    assert len(persons["val"]) == 2
    assert not persons["train"] & persons["val"]


def test_balanced_draws_are_equal_and_follow_seed_and_epoch(mix: Callable[..., Any]) -> None:
    data = mix(0, sampling="balanced")  # 12 frames of DISFA and 8 of BP4D train: ten draws each
    starts = {"disfa": 0, "bp4d": 15}
    rows = {name: [r for r in data.rows_train if (r >= 15) == (name == "bp4d")] for name in starts}
    assert {name: len(of) for name, of in rows.items()} == {"disfa": 12, "bp4d": 8}

    def epoch(number: int, rank: int = 0, world: int = 1) -> list[int]:
        sampler = data.train_sampler(rank, world)
        sampler.set_epoch(number)
        assert {key[0] for key in sampler} == {number}
        assert len(list(sampler)) == len(sampler)
        return [key[1] for key in sampler]

    for number in range(5):
        drawn = Counter(epoch(number))
        of_disfa, of_bp4d = ({r: n for r, n in drawn.items() if r in rows[name]} for name in ("disfa", "bp4d"))
        assert sum(of_disfa.values()) == sum(of_bp4d.values()) == 10
        assert set(of_disfa.values()) == {1}
        assert set(of_bp4d) == set(rows["bp4d"])
        assert set(of_bp4d.values()) == {1, 2}
    assert epoch(3) == epoch(3) != epoch(4)
    assert {r for number in range(5) for r in epoch(number)} == set(data.rows_train)
    assert sorted(epoch(2, 0, 2) + epoch(2, 1, 2)) == sorted(epoch(2))
    assert mix(0).train_sampler(0, 1).rows.tolist() == data.rows_train.tolist()


def test_different_crops_are_refused_unless_allowed(
    store: Callable[..., Path], record: Callable[..., Any], roots: dict[str, str], mix: Callable[..., Any]
) -> None:
    records = [record(s, "T1", 0, {"AU12": 0, "AU23": 1}) for s in ("F001", "F003", "F004")]
    train = roots | {"bp4d": str(store("bp4d", records, preset="megraph"))}
    with pytest.raises(DataError, match="bp4d megraph") as refused:
        mix(train=train)
    assert "allow_crop_mismatch" in refused.value.remedy
    both = mix(train=train, allow_crop_mismatch=True).state_dict()["preprocessing"]
    assert both.split("+")[0] == mix().state_dict()["preprocessing"]
    assert len(both) == 25


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"aus": [12, 44]}, "AU44"),
        ({"aus": [1]}, "bp4d codes none"),
        ({"train": {"disfa": "x", "nobody": "y"}}, "no dataset nobody"),
        ({"train": {}}, "no dataset"),
        ({"fold": 4}, "data.fold=4"),
        ({"val_subjects": 4}, "val_subjects=4"),
        ({"train": {"disfa": "nowhere"}}, "nowhere"),
        ({"balanced_expressions": True}, "has no expressions"),
        ({"balanced_expressions": True, "sampling": "balanced"}, "one of them orders"),
    ],
)
def test_what_cannot_work_is_refused(
    roots: dict[str, str], opened: Callable[..., Any], settings: dict[str, Any], words: str
) -> None:
    settings = {"train": roots, "aus": AUS} | settings
    with pytest.raises(DataError, match=words) as refused:
        opened(Mixture, settings.pop("train"), settings.pop("fold", 1), **settings)
    assert refused.value.remedy


def test_expressions_are_unknown_where_there_are_none_and_never_of_two_lists(
    store: Callable[..., Path], record: Callable[..., Any], roots: dict[str, str], opened: Callable[..., Any]
) -> None:
    pictures = [
        record(f"{folder}/Fear/{i:04d}", "still", 0, {"expression": 3}, folder)
        for folder in ("train", "test")
        for i in range(3)
    ]
    caer_s = str(store("caer_s", pictures, expressions=EXPRESSIONS))
    data = opened(Mixture, roots, test={"caer_s": caer_s}, aus=AUS)
    assert data.expressions == EXPRESSIONS
    assert data.train_labels("expression").tolist() == [-1] * len(data.rows_train)
    batch = next(iter(data.test_dataloader()))
    assert (batch["expression"].tolist(), batch["au"].tolist()) == ([3], [[-1] * 4])
    people = [record(s, "01_01_05_1_07", 0, {"expression": 0}) for s in ("001", "002", "003")]
    multi_pie = str(store("multi_pie", people, expressions=MULTI_PIE_EXPRESSIONS))
    with pytest.raises(DataError, match=r"Smile.*Anger|Anger.*Smile"):
        opened(Mixture, {"multi_pie": multi_pie}, test={"caer_s": caer_s}, aus=[])


def test_an_official_split_leaves_fold_1_and_other_folds_must_be_equally_many(
    store: Callable[..., Path], record: Callable[..., Any], roots: dict[str, str], opened: Callable[..., Any]
) -> None:
    pictures = [
        record(f"{folder}/Fear/{i:04d}", "still", 0, {"expression": 3}, folder)
        for folder in ("train", "test")
        for i in range(4)
    ]
    mixed = {**roots, "caer_s": str(store("caer_s", pictures, expressions=EXPRESSIONS))}
    data = opened(Mixture, mixed, aus=AUS, val_subjects=1)
    assert data.n_folds == 1
    held_out = {name for name in data.subjects_test if name.startswith("caer_s/")}
    assert held_out  # equal pictures count once
    assert held_out <= {f"caer_s/test/Fear/{i:04d}" for i in range(4)}
    assert set(opened(Mixture, roots, aus=AUS, val_subjects=1).subjects_test) < set(data.subjects_test)
    with pytest.raises(DataError, match=r"data\.fold=2"):
        opened(Mixture, mixed, 2, aus=AUS)
    with pytest.raises(DataError, match="disfa 3, bp4d 3, multi_pie 5"):
        opened(Mixture, {**roots, "multi_pie": roots["disfa"]}, aus=AUS)


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:Relations of these AUs")
def test_a_network_learns_from_both(mix: Callable[..., Any], tmp_path: Path) -> None:
    data = mix(1, image_size=32, batch_size=4, sampling="balanced")
    model = RENet(AUS, width=0.125, strategy="joint")
    before = {name: value.clone() for name, value in model.named_parameters()}
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_steps=2, use_distributed_sampler=False, **quiet
    )
    trainer.fit(model, datamodule=data)
    assert trainer.global_step == 2
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert any(not torch.equal(value, before[name]) for name, value in model.named_parameters())
    relation = model.network.relation.omega
    assert relation[1, 2] == 0  # AU01 and AU23 are never coded together
    assert np.isfinite(relation.numpy()).all()


def test_checkpoints_are_judged_by_person_across_datasets(
    mix: Callable[..., Any], roots: dict[str, str], opened: Callable[..., Any]
) -> None:
    """A mixture's fold 1 has seen parts 2 and 3 of both datasets, and nobody of part 1."""
    source = {"Mixture": mix(1).state_dict()}
    for module, name, aus in ((DISFA, "disfa", [1, 12]), (BP4D, "bp4d", [12])):
        check_leakage(source, opened(module, roots[name], 1, aus=aus, val_subjects=0).state_dict(), "x.ckpt")
        with pytest.raises(ModelError, match=f"{name}/"):
            check_leakage(source, opened(module, roots[name], 2, aus=aus).state_dict(), "x.ckpt")

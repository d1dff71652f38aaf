from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.store import FrameStore
from datamodules.synth import roots
from datamodules.synth.roots import check_root, parse_root, resolve_root


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(roots, "usable_cpus", lambda: 1)  # processes take seconds to start
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("root", "named"),
    [
        ("synth:faces", "faces"),
        ("synth:synth_facs?subject=3", "subject"),
        ("synth:synth_facs?subjects=three", "three"),
        ("synth:synth_facs?subjects", "subjects"),
        ("synth:synth_facs?subjects=", "subjects"),
        ("synth:synth_facs?subjects=0", "subjects"),
        ("synth:synth_facs?rates=many", "many"),
        ("synth:synth_facs?coder_noise=1", "coder_noise"),
        ("synth:disfa?rates=published", "rates"),
        ("synth:disfa?subjects=99", "99"),
        ("synth:disfa?preset=round", "round"),
        ("synth:bp4d?with_faults=true", "with_faults"),
        ("no/such/store", "no/such/store"),
    ],
)
def test_bad_roots_are_named_without_rendering(root: str, named: str, cache: Path) -> None:
    with pytest.raises(DataError, match=named):
        check_root(root)
    with pytest.raises(DataError, match=named):
        resolve_root(root, progress=False)
    assert not cache.exists()


def test_settings_are_read_and_defaults_filled_in() -> None:
    root = parse_root("synth:synth_facs?subjects=7&rates=published&coder_noise=false")
    assert root.dataset == "synth_facs"
    options = root.twin
    assert (options["subjects"], options["rates"], options["coder_noise"], options["seed"]) == (
        7,
        "published",
        False,
        0,
    )


def test_settings_reach_the_twin_its_parser_and_the_crop() -> None:
    root = parse_root("synth:affwild2?release=abaw1&track=expr&frames=30&preset=aunet")
    assert (root.twin["release"], root.twin["frames"]) == ("abaw1", 30)
    assert (root.raw["release"], root.raw["track"]) == ("abaw1", "expr")
    assert "track" not in root.twin
    assert root.preset == "aunet"
    assert parse_root("synth:multi_pie?cameras=05_1,14_0&shots=0").raw == {"cameras": ["05_1", "14_0"], "shots": [0]}


def test_a_root_renders_once_and_its_settings_choose_the_place(cache: Path) -> None:
    root = "synth:synth_facs?subjects=2&frames=3&size=32"
    out = resolve_root(root, progress=False)
    store = FrameStore(out)
    assert (len(store), store.subjects.tolist(), store.read(0).shape) == (6, ["S0001", "S0002"], (32, 32, 3))
    stamp = (out / "manifest.json").stat().st_mtime_ns
    assert resolve_root("synth:synth_facs?size=32&frames=3&subjects=2", progress=False) == out
    assert (out / "manifest.json").stat().st_mtime_ns == stamp
    assert resolve_root(f"{root}&seed=1", progress=False) != out
    assert out.parent == cache


def test_the_twin_goes_through_its_raw_layout(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "usable_cpus", lambda: 2)
    store = FrameStore(resolve_root("synth:disfa?subjects=2&frames=3&size=32", progress=False))
    assert store.key(4) == ("disfa", "SN002", "left", 1)
    assert store.manifest["edition"] == "twin"
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [store.root.name]


def test_a_store_is_its_own_root(cache: Path) -> None:
    out = resolve_root("synth:synth_facs?subjects=1&frames=2&size=32", progress=False)
    assert resolve_root(str(out)) == out

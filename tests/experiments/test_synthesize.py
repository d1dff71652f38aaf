import sys
from pathlib import Path

import pytest

from datamodules.synth.registry import TWINS
from experiments import prepare, synthesize
from experiments.terminal import exit_with


def run(monkeypatch: pytest.MonkeyPatch, main: object, *words: object) -> object:
    monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        exit_with(main)  # type: ignore[arg-type]
    return ended.value.code


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("disfa", "--out", "{tmp}/raw", "--subjects", "many"), "error: subjects: Expected a int. Got value: many"),
        (("disfa", "--out", "{tmp}/raw", "--camera", "top"), "error: camera: "),
        (("disfa", "--out", "{tmp}/raw", "--subjects", "99"), "error: disfa: subjects=99 is out of range"),
        (("disfa", "--out", "{tmp}/raw", "--tea", "now"), "error: unrecognized arguments: --tea now"),
        (("disfa",), "error: the following arguments are required: disfa.out"),
        (("daisy",), "error: argument DATASET: invalid choice: 'daisy'"),
        ((), 'error: expected "dataset"'),
    ],
)
def test_what_cannot_start_says_so_in_two_lines(
    tmp_path: Path,
    words: tuple[str, ...],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, synthesize.main, *(word.format(tmp=tmp_path) for word in words)) == 2
    error, remedy = capsys.readouterr().err.splitlines()
    assert error.startswith(what)
    assert remedy.startswith("remedy: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TWINS)
def test_what_a_twin_with_faults_holds_is_refused_by_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"affwild2": "--frames 24 --subjects 2", "multi_pie": "--subjects 1", "caer_s": "--subjects 2"}
    few = ["--size", "64", *sizes.get(name, "--subjects 2 --frames 4").split()]
    raw = tmp_path / "raw"
    assert run(monkeypatch, synthesize.main, name, "--out", raw, *few, "--with-faults", "--workers", 0) == 0
    capsys.readouterr()
    words = ["--boxes", raw / "boxes" / "annotations"] if name == "caer_s" else ["--faces", "truth"]
    assert run(monkeypatch, prepare.main, name, "--raw", raw, "--out", tmp_path / "store", *words) == 2
    error, remedy = capsys.readouterr().err.splitlines()
    assert str(raw) in error
    assert remedy.startswith("remedy: ")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]

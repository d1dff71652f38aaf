import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.store import FrameStore
from experiments import prepare
from experiments.terminal import exit_with

ROOT = Path(__file__).parents[2]


Command = Callable[..., subprocess.CompletedProcess[str]]


def test_from_nothing_to_a_checked_store(tmp_path: Path, command: Command) -> None:
    raw, out = tmp_path / "raw", tmp_path / "store"
    made = command(
        "synthesize.py", "disfa", "--out", raw, "--subjects", "2", "--frames", "4", "--size", "64", "--workers", "0"
    )
    assert made.returncode == 0, made.stderr
    prepared = command(
        "prepare.py", "disfa", "--raw", raw, "--out", out, "--size", "64", "--failures", "drop", "--workers", "2"
    )
    assert prepared.returncode == 0, prepared.stderr
    assert "8 frames of 2 subjects, 64 px" in prepared.stdout
    assert "faces located: 100.0% of the pictures" in prepared.stdout
    assert re.search(r"frames a second and process: read \d+, faces \d+, warp \d+, encode \d+", prepared.stdout)
    assert f"next: python experiments/doctor.py {out}" in prepared.stdout
    assert "100%" in prepared.stderr  # the progress bar
    assert command("doctor.py", out, "--full").returncode == 0
    assert FrameStore(out).manifest["edition"] == "twin"


def test_synthetic_faces_without_a_raw_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = "synth:synth_facs?subjects=2&frames=2&size=32"
    words = ["synth_facs", "--raw", root, "--out", str(tmp_path / "store"), "--size", "32", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["prepare.py", *words])
    prepare.main()
    assert len(FrameStore(tmp_path / "store")) == 4


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("disfa", "--raw", "nowhere", "--out", "{tmp}/out"), "nowhere"),
        (("disfa", "--raw", "{tmp}", "--out", "{tmp}/out"), "ActionUnit_Labels"),
        (("synth_facs", "--raw", "synth:synth_facs?subject=1", "--out", "{tmp}/out"), "subject"),
        (("synth_facs", "--raw", "data", "--out", "{tmp}/out"), "data"),
        (("synth_facs", "--raw", "synth:synth_facs?preset=aunet", "--out", "{tmp}/out"), "preset"),
        (("disfa", "--raw", "{tmp}", "--out", "{tmp}/out", "--preset", "nobody"), "nobody"),
        (("disfa", "--raw", "{tmp}", "--out", "{tmp}/out", "--size", "big"), "big"),
        (("disfa", "--raw", "{tmp}", "--out", "{tmp}/out", "--size", "8"), "size=8"),
        (("disfa", "--raw", "{tmp}", "--out", "{tmp}/out", "--failures", "guess"), "guess"),
        (("disfa", "--raw", "{tmp}", "--out", "{tmp}/out", "--faces", "detect", "--detector", "eyes"), "eyes"),
        (("disfa", "--raw", "{tmp}", "--out", "{tmp}/out", "--camera", "top"), "top"),
        (("disfa", "--raw", "{tmp}", "--out", "{tmp}/out", "--tea", "now"), "--tea"),
        (("disfa", "--raw", "{tmp}"), "out"),
        (("daisy", "--raw", "{tmp}", "--out", "{tmp}/out"), "daisy"),
        ((), "dataset"),
    ],
)
def test_what_cannot_start_says_so_in_two_lines(
    tmp_path: Path,
    words: tuple[str, ...],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare.py", *(word.format(tmp=tmp_path) for word in words)])
    with pytest.raises(SystemExit) as ended:
        exit_with(prepare.main)
    assert ended.value.code == 2
    what, remedy = capsys.readouterr().err.splitlines()
    assert named in what
    assert remedy.startswith("remedy: ")
    assert list(tmp_path.iterdir()) == []


def test_options_are_those_of_the_dataset_and_of_prepare(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shelf:
        """Books by their shelves."""

        def __init__(self, root: Path, shelves: list[str], rows: list[int] | None = None, deep: bool = False) -> None:
            """Nothing to do.

            Args:
                root: Folder.
                shelves: Which.
                rows: Which.
                deep: Whether.
            """

    monkeypatch.setitem(prepare.RAW, "shelf", Shelf)  # type: ignore[arg-type]
    words = ["shelf", "--raw", "r", "--shelves", "05_1,1_0", "--deep", "true", "--out", "o", "--preset", "aunet"]
    dataset, options = prepare.parse(words)
    assert dataset == "shelf"
    assert options.pop("workers") >= 1
    assert options == {
        "raw": Path("r"),
        "shelves": ["05_1", "1_0"],  # which YAML takes for the numbers 41 and 10
        "rows": None,
        "deep": True,
        "out": Path("o"),
        "faces": "dataset",
        "detector": "dlib",
        "preset": "aunet",
        "size": None,
        "failures": "nearest",
    }
    for shelves in ("05_1", "[05_1]", '["05_1"]'):
        assert prepare.parse(["shelf", "--raw", "r", "--out", "o", f"--shelves={shelves}"])[1]["shelves"] == ["05_1"]


def test_commands_start_without_loading_torch() -> None:
    scripts = [str(ROOT / "experiments" / name) for name in ("synthesize.py", "prepare.py", "doctor.py")]
    program = """
import runpy, sys

for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        assert not ended.code
    assert "torch" not in sys.modules, script
"""
    helped = subprocess.run([sys.executable, "-c", program, *scripts], capture_output=True, text=True, check=False)
    assert helped.returncode == 0, helped.stderr
    assert helped.stdout.count("usage") >= 3

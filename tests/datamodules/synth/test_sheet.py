from pathlib import Path

import cv2
import pytest

from datamodules.synth.sheet import main


def test_sheet_shows_every_au_of_every_subject(tmp_path: Path) -> None:
    main(["--out", str(tmp_path / "sheet.png"), "--subjects", "2", "--size", "40"])
    picture = cv2.imread(str(tmp_path / "sheet.png"))
    assert picture.shape[1] == 18 * 40  # neutral and 17 AUs
    assert picture.shape[0] >= 2 * 40


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "nowhere" / "sheet.png")])
    assert "folder that exists" in capsys.readouterr().err

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.raw.records import FrameRecord
from datamodules.store import FrameStore
from experiments.doctor import examine, page_path
from experiments.examination import page
from experiments.examination.findings import Case, Result, fault


def whole(subject: str, level: int, frames: int = 40, **facts: object) -> list[FrameRecord]:
    """Pictures with a face's outline of landmarks; AU12 at a level in every second frame, unknown in the last."""
    rng = np.random.default_rng(level)
    made = []
    for frame in range(frames):
        image = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        labels = {"AU12_intensity": -1 if frame == frames - 1 else level * (frame % 2)}
        made.append(FrameRecord(subject, "left", frame, frame / 20, image, None, labels, **facts))
    return made


@pytest.fixture
def store(make_store: Callable[..., FrameStore]) -> FrameStore:
    clips = {"SN001": whole("SN001", 1), "SN003": whole("SN003", 3, occluded=True), "SN004": whole("SN004", 5)}
    return make_store(clips, delivers="crop", label_columns=["AU12_intensity"])


class Reader(HTMLParser):
    """Counts elements and collects what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]


def test_the_page_is_one_file_with_everything_on_it(store: FrameStore, tmp_path: Path) -> None:
    examination = examine(store, progress=False)
    assert examination.timing is not None
    path = tmp_path / "page.html"
    page.write_page(examination.case, examination.results, examination.timing, path)
    text = path.read_text()
    reader = Reader()
    reader.feed(text)
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in reader.addresses)
    assert not re.search(r"url\((?!#)|@import|<script", text)
    assert (
        sum(address.startswith("data:") for address in reader.addresses) == 24 + 8 + 3
    )  # drawn, occluded, without labels
    for result in examination.results:
        assert f"<td>{result.name}</td>" in text
    assert "No faults" in text
    again = tmp_path / "again.html"
    page.write_page(examination.case, examination.results, examination.timing, again)
    assert again.read_text() == text


def test_findings_show_their_pictures_and_text_is_escaped(store: FrameStore, tmp_path: Path) -> None:
    examination = examine(store, progress=False)
    assert examination.timing is not None
    broken = Result("keys", "", [fault("<SN001> is wrong", "mend it", [3])])
    path = tmp_path / "page.html"
    page.write_page(examination.case, [broken], examination.timing, path)
    text = path.read_text()
    assert "1 fault" in text
    assert "&lt;SN001&gt; is wrong" in text
    assert "SN001 left 3" in text.split("keys: fault")[1]


def test_landmarks_are_drawn_where_the_picture_shows_them(make_store: Callable[..., FrameStore]) -> None:
    points = np.full((68, 2), np.nan, np.float32)
    points[[27, 28, 30]] = (10, 4), (10, 8), (10, 12)
    store = make_store({"SN001": whole("SN001", 1)}, delivers="crop", label_columns=["AU12_intensity"])
    case = Case(store)
    case.__dict__["landmarks"] = np.stack([points] * len(store))
    crop = page._crop(case, 1)
    assert crop.path == "M10.5 4.5L10.5 8.5L10.5 12.5"  # the centre of the first pixel is at 0.5 of the drawing
    assert crop.dots == [(10.5, 4.5), (10.5, 8.5), (10.5, 12.5)]
    assert (crop.name, crop.labels) == ("SN001 left 1", "12:1")
    assert page._crop(case, 0).labels == ""


def test_prevalence_of_labels_that_occur(make_store: Callable[..., FrameStore]) -> None:
    columns = ["AU12_intensity", "AU15_intensity"]
    clips = {"SN001": whole("SN001", 3), "SN002": whole("SN002", 5)}
    for record in clips["SN001"]:
        record.labels["AU15_intensity"] = 0
    plot = page.prevalence(Case(make_store(clips, delivers="crop", label_columns=columns)))
    assert "AU12 ≥ 2" in plot.svg
    assert "AU15" not in plot.svg
    assert plot.caption.endswith("by subject, and by part. Never shown: AU15 ≥ 2.")


def test_shares_by_group() -> None:
    values = np.array([1, 0, np.nan, 1, 1, np.nan])
    shares = page._shares(values, np.array([0, 0, 0, 1, 3, 2]), 3)
    np.testing.assert_array_equal(shares, [0.5, 1, np.nan])


def test_the_page_stands_beside_the_store_never_in_it(tmp_path: Path) -> None:
    (tmp_path / "disfa").mkdir()
    assert page_path(tmp_path / "disfa", None) == tmp_path / "disfa.html"
    assert page_path(tmp_path / "disfa", tmp_path / "x.html") == tmp_path / "x.html"
    for wanted in (tmp_path / "disfa" / "x.html", tmp_path / "none" / "x.html", tmp_path):
        with pytest.raises(DataError) as raised:
            page_path(tmp_path / "disfa", wanted)
        assert "--html" in raised.value.remedy

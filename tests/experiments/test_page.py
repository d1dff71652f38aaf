"""The page of the report as a reader finds it: a real browser clicks, types and reads."""

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from experiments.report import write_report

Writer = Callable[..., Any]
AUS = (6, 12)


class Browser:
    """Headless chromium, spoken to in its DevTools protocol over two pipes: no driver and no port."""

    def __init__(self, profile: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()
        self._out, self._in = ours[1], theirs[0]
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        line = ["bash", "-c", f'exec "$@" 3<&{ours[0]} 4>&{theirs[1]}', "bash", "chromium", *flags, "about:blank"]
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(line, pass_fds=(ours[0], theirs[1]), **streams)
        os.close(ours[0])
        os.close(theirs[1])
        self._number, self._buffer, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self._session = ""
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._in], [], [], 30)[0], "chromium does not answer"
            part = os.read(self._in, 1 << 16)
            assert part, "chromium has ended"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def open(self, page: Path) -> None:
        self.call("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + 30
        while self.js("document.readyState") != "complete" or not self.js("location.protocol == 'file:'"):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def js(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, node: str) -> None:
        """Where the middle of the node is on the screen, whatever may lie above it there."""
        place = f"(b => ({{x: b.x + b.width / 2, y: b.y + b.height / 2}}))({node}.getBoundingClientRect())"
        self.js(f"{node}.scrollIntoView({{block: 'center', inline: 'center'}})")
        where = self.js(place)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str, text: str = "") -> None:
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


@pytest.fixture
def page(tmp_path: Path, write_fold: Writer, random_ledger: Writer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three learning rates, the best in the middle; and another dataset with 1,500 frames."""
    monkeypatch.setattr("experiments.report.pictures", lambda *_: [])  # those of the analyses are enough
    for name, skill, rate in (("a", 1.2, 1e-4), ("b", 2.6, 3e-4), ("c", 1.9, 1e-3)):
        for fold in (1, 2):
            ledger = {key: of for key, of in random_ledger(fold, AUS, skill=skill).items() if "level" not in key}
            path = write_fold(tmp_path / "runs" / name, fold, ledger, label_threshold=1)
            settings = {"model": {"init_args": {"lr": rate}}, "data": {"init_args": {"fold": fold}}}
            (path / "config.yaml").write_text(yaml.safe_dump(settings))
    ledger = {key: of for key, of in random_ledger(1, AUS, frames=300).items() if "level" not in key}
    path = write_fold(tmp_path / "runs" / "other", 1, ledger, dataset="bp4d", label_threshold=1)
    (path / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"lr": 1e-4}}}))
    return write_report([tmp_path / "runs"], tmp_path / "report", ["strict"], resamples=100)


def rows(browser: Browser, within: str) -> list[list[str]]:
    """Text of the visible rows."""
    visible = f"[...document.querySelectorAll('{within} tbody tr')].filter(row => row.getClientRects().length)"
    return browser.js(f"{visible}.map(row => [...row.cells].map(cell => cell.innerText))")


def titles(browser: Browser) -> list[str]:
    heads = "[...document.querySelectorAll('h2')].filter(head => head.getClientRects().length)"
    return browser.js(f"{heads}.map(head => head.innerText)")


def test_the_page_sorts_searches_and_filters(browser: Browser, page: Path) -> None:
    numbers = pd.read_csv(page.with_name("report.csv"))
    chosen = numbers[(numbers["protocol"] == "strict") & (numbers["metric"] == "f1") & numbers["headline"].eq(True)]
    means = chosen[chosen["au"] == "mean"].set_index("run")["value"].drop("other").sort_values()
    browser.call("Emulation.setDeviceMetricsOverride", width=1100, height=300, deviceScaleFactor=1, mobile=False)
    browser.open(page)
    assert browser.js("[...document.images].length > 3 && [...document.images].every(i => i.naturalWidth > 100)")

    # A click on a head sorts, down and then up; so does the keyboard.
    leaderboard = "section:has(#h2) .block:nth-of-type(1)"
    assert browser.js("document.querySelector('#h2').innerText") == "Leaderboard"
    assert [row[0] for row in rows(browser, leaderboard)] == list(means.index[::-1])
    head = f"document.querySelectorAll('{leaderboard} thead button')[2]"
    assert browser.js(f"{head}.innerText") == "F1"
    browser.click(head)
    assert browser.js(f"{head}.parentElement.ariaSort") == "descending"
    browser.click(head)
    assert [row[0] for row in rows(browser, leaderboard)] == list(means.index)
    assert browser.js(f"{head}.parentElement.ariaSort") == "ascending"
    browser.press("Enter", "\r")
    assert [row[0] for row in rows(browser, leaderboard)] == list(means.index[::-1])

    # Numbers are sorted as numbers, 1,067 behind 98; the mean stays last.
    (place,) = (i for i, title in enumerate(titles(browser), 1) if title == "other")
    counted = f"#s{place} .block:nth-of-type(2)"
    column = browser.js(f"[...document.querySelectorAll('{counted} th')].findIndex(h => h.innerText == 'known frames')")
    browser.click(f"document.querySelectorAll('{counted} thead button')[{column}]")
    cells = rows(browser, counted)
    frames = [int(row[column].replace(",", "")) for row in cells[:-1]]
    assert max(frames) > 1000
    assert frames == sorted(frames, reverse=True)
    assert cells[-1][0] == "mean"

    # A filter leaves rows and sections of the runs that have the value.
    browser.js("document.querySelector('select[name=\"model.lr\"]').focus()")
    browser.press("0", "0")  # the first value that starts so
    assert browser.js("document.querySelector('select[name=\"model.lr\"]').value") == "0.0001"
    assert [row[0] for row in rows(browser, "#s1")] == ["a", "other"]
    assert set(titles(browser)) & {"a", "b", "c", "other"} == {"a", "other"}
    assert [row[0] for row in rows(browser, leaderboard)] == ["a"]

    # A search leaves rows that have all words, counting those of the titles above them.
    browser.click("document.querySelector('#clear')")
    assert len(rows(browser, leaderboard)) == 3
    browser.click("document.querySelector('#search')")
    browser.type("AU12 ninus")
    assert browser.js("document.querySelector('#count').value").startswith("0 of ")
    assert titles(browser) == []
    browser.js("document.querySelector('#search').select()")
    browser.type("AU12 minus")
    left = rows(browser, "main")
    assert len(left) > 3
    assert all(row[0] == "AU12" for row in left)
    assert browser.js("document.querySelector('#count').value").startswith(f"{len(left)} of ")
    assert set(titles(browser)) == {"Comparison of the runs", "Significance"}
    browser.click("document.querySelector('#clear')")
    assert len(titles(browser)) > 8

    # Heads stay in sight above the rows, and the filter above the page.
    box = f"document.querySelector('{counted} .scroll')"
    browser.js(f"{box}.style.maxHeight = '80px'; {box}.scrollIntoView(); {box}.scrollTop = 60")
    tops = browser.js(f"[{box}, {box}.querySelector('thead th + th')].map(node => node.getBoundingClientRect().top)")
    assert browser.js(f"{box}.scrollTop") > 20
    assert tops[1] == pytest.approx(tops[0], abs=2)
    assert browser.js("document.querySelector('#filter').getBoundingClientRect().top") == 0

    asked = [of["params"]["request"]["url"] for of in browser.events if of["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert not [event for event in browser.events if event["method"] == "Runtime.exceptionThrown"]

"""The page of `a2s review` in a browser: keys, brush, two tabs, many labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser_session import Browser, Tab, browser
from http_server import serving
from review_labels import HOSTILE, repeat, write_pair

from a2s.data.images import decode_mask
from a2s.data.index import Index
from a2s.labels.review import read_decisions

MESSAGE = "document.querySelector('#message').textContent"
EDITOR = "!document.querySelector('#editor').hidden"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


def opened(chromium: Browser, address: str, *, width: int = 1100, height: int = 700) -> Tab:
    tab = chromium.new_tab()
    tab.size(width, height, mobile=width < 600)
    tab.open(address)
    tab.wait("document.querySelectorAll('.card img').length > 3")
    return tab


def shows(tab: Tab, row: int) -> None:
    tab.wait(f"document.querySelector('#canvas').dataset.row === '{row}' && {EDITOR}")


def follows(tab: Tab, does: bool) -> None:
    """Whether a tab asks for the decisions of others, which one in the background does not."""
    value = str(not does).lower()
    tab.run(f"Object.defineProperty(document, 'hidden', {{value: {value}, configurable: true}}); 0")


def counts(tab: Tab) -> str:
    return str(tab.run("document.querySelector('#counts').textContent"))


def test_a_person_reviews_labels(chromium: Browser, tmp_path: Path) -> None:
    labels, data = write_pair(tmp_path, names=(HOSTILE,))
    keys = Index.load(labels).keys.to_pylist()
    with serving("review", labels, "--data", data, "--port", 0) as running:
        tab = opened(chromium, running.address)
        assert "token" not in tab.run("location.href")
        assert HOSTILE in tab.run("document.querySelector('#space').textContent")
        # Row 5 has no object, then by quality: 0, 1, 2 …
        tab.press("a")
        tab.wait("document.querySelector('#counts').textContent.includes('1 accepted')")
        tab.press("r")
        tab.wait("document.querySelector('#counts').textContent.includes('1 rejected')")
        assert {key: one.verdict for key, one in read_decisions(labels).items()} == {
            keys[5]: "accepted",
            keys[0]: "rejected",
        }
        tab.press("u")
        tab.wait("document.querySelector('#counts').textContent.includes('0 rejected')")
        assert list(read_decisions(labels)) == [keys[5]]

        # Paint the other half of the disc; the stroke snaps to its edge.
        tab.press("n", "Enter")
        shows(tab, 1)
        box = tab.run(
            "(() => { const b = document.querySelector('#canvas').getBoundingClientRect();"
            "return [b.left, b.top, b.width / 120]; })()"
        )
        left, top, scale = box

        def at(x: float, y: float) -> tuple[float, float]:
            return left + x * scale, top + y * scale

        tab.run("document.querySelector('#size').value = 90")
        tab.drag(*(at(64, y) for y in (34, 42, 50, 58, 62)))
        tab.press("a")
        shows(tab, 2)
        fixed = read_decisions(labels)[keys[1]]
        assert fixed.verdict == "fixed"
        assert fixed.mask_png is not None
        found_HW = decode_mask(fixed.mask_png) > 0
        y, x = np.mgrid[:96, :120]
        disc_HW = (x - (60 + 1 - 3)) ** 2 + (y - 48) ** 2 < 32**2
        overlap = (found_HW & disc_HW).sum() / (found_HW | disc_HW).sum()
        assert overlap > 0.9, overlap

        # Fill removes the island; leaving the label saves it.
        tab.press("f")
        tab.drag(at(40, 48))
        tab.press("n")
        shows(tab, 3)
        emptied = read_decisions(labels)[keys[2]]
        assert emptied.mask_png is not None
        assert not decode_mask(emptied.mask_png).any()
        tab.press("Escape")
        assert tab.run("document.querySelector('#editor').hidden")
        assert tab.console == []
        assert tab.run("document.title") == "a2s review"


def test_two_tabs_lose_nothing_and_see_each_other(chromium: Browser, tmp_path: Path) -> None:
    labels, data = write_pair(tmp_path)
    with serving("review", labels, "--data", data, "--port", 0) as running:
        first = opened(chromium, running.address)
        second = opened(chromium, running.address)
        follows(first, True)
        second.press("End", "p", "p", "p")
        for _ in range(4):
            first.press("a")
            second.press("r")
        for tab in (first, second):
            tab.wait(
                "document.querySelector('#counts').textContent.includes('4 accepted · 4 rejected')"
            )
        assert len(read_decisions(labels)) == 8
        second.wait("document.querySelectorAll('.card.is-accepted').length === 4")

        # Both about one label: what the second has not seen, it does not replace.
        for tab in (first, second):
            follows(tab, False)
            tab.press("Home", "n", "n", "n", "n")
        first.press("a")
        first.wait("document.querySelector('#counts').textContent.includes('5 accepted')")
        second.press("r")
        second.wait(f"{MESSAGE}.includes('Another window has decided')")
        assert "5 accepted · 4 rejected" in counts(second)
        second.press("r")
        second.wait("document.querySelector('#counts').textContent.includes('5 rejected')")
        # The first takes back its own decisions only.
        first.press("u")
        first.wait(f"{MESSAGE}.includes('Nothing was undone')")
        assert "4 accepted · 5 rejected" in counts(first)
        first.press("u")
        first.wait("document.querySelector('#counts').textContent.includes('3 accepted')")
        assert len(read_decisions(labels)) == 8
    with serving("review", labels, "--data", data, "--port", 0) as running:
        again = opened(chromium, running.address)
        assert "3 accepted · 5 rejected" in counts(again)
        assert again.console == []


def test_what_the_editor_shows_is_decided(chromium: Browser, tmp_path: Path) -> None:
    labels, data = write_pair(tmp_path)
    keys = Index.load(labels).keys.to_pylist()
    with serving("review", labels, "--data", data, "--port", 0) as running:
        tab = opened(chromium, running.address)
        tab.press("Enter")
        shows(tab, 5)
        tab.run("remember(); edit.mask.fill(1); paint()")
        tab.press("a")
        shows(tab, 0)
        # What was drawn before is shown, and to accept it keeps it.
        tab.press("p")
        shows(tab, 5)
        assert tab.run("edit.mask.every((value) => value === 1)")
        tab.press("a")
        shows(tab, 0)
        drawn = read_decisions(labels)[keys[5]].mask_png
        assert drawn is not None
        assert decode_mask(drawn).all()

        # The list may change under the editor.
        tab.run("find(false)")
        tab.press("r")
        shows(tab, 1)
        assert read_decisions(labels)[keys[0]].verdict == "rejected"

        # More strokes than can be taken back leave some, which are saved.
        tab.run(
            "for (let i = 0; i < 31; i++) { remember(); edit.mask[i] = 1 - edit.mask[i]; }"
            "for (let i = 0; i < 31; i++) takeBack()"
        )
        tab.press("a")
        shows(tab, 2)
        assert read_decisions(labels)[keys[1]].verdict == "fixed"

        # A photograph that cannot be shown is not decided about unseen.
        tab.run("Image.prototype.decode = () => Promise.reject(new Error('damaged')); 0")
        tab.press("n")
        tab.wait(f"{MESSAGE}.includes('cannot be shown')")
        assert tab.run("document.querySelector('#canvas').dataset.row === undefined")
        tab.press("a")
        tab.wait(f"{MESSAGE}.includes('nothing was decided')")
        assert set(read_decisions(labels)) == {keys[row] for row in (0, 1, 5)}

        # The browser's cache cannot show pictures of another start.
        pictures = tab.run(
            "performance.getEntriesByType('resource').map((one) => one.name)"
            ".filter((name) => name.match('/(thumb|image|mask|first)/'))"
        )
        start = running.ask("/api/summary").json["start"]
        assert len(pictures) > 8
        assert [one for one in pictures if f"?start={start}" not in one] == []


def test_a_hundred_thousand_labels_scroll(chromium: Browser, tmp_path: Path) -> None:
    labels, data = write_pair(tmp_path)
    repeat(labels, 100_000)
    repeat(data, 100_000)
    with serving("review", labels, "--data", data, "--port", 0) as running:
        tab = opened(chromium, running.address)
        # The scroll bar moves through everything; a frame takes no time that people notice.
        slowest = tab.run(
            "(async () => { const box = document.querySelector('#scroller'); let slowest = 0;"
            "for (let step = 0; step < 60; step++) {"
            " box.scrollTop = box.scrollHeight * Math.random(); const start = performance.now();"
            " drawNow(); slowest = Math.max(slowest, performance.now() - start);"
            " await new Promise(requestAnimationFrame); } return slowest; })()"
        )
        assert slowest < 500
        tab.press("End")
        tab.wait("document.querySelector('.card.current img') !== null")
        assert tab.run("document.querySelector('.card.current').id") == "card-99999"
        assert tab.run("document.querySelectorAll('.card').length") < 60
        tab.press("a")
        tab.wait("document.querySelector('#counts').textContent.includes('1 accepted')")


@pytest.mark.parametrize(("width", "height"), [(360, 740), (1280, 800)])
def test_it_fits_the_window(chromium: Browser, tmp_path: Path, width: int, height: int) -> None:
    labels, data = write_pair(tmp_path, names=("a" * 90,))
    with serving("review", labels, "--data", data, "--port", 0) as running:
        tab = opened(chromium, running.address, width=width, height=height)
        for _ in range(2):
            assert tab.run("document.documentElement.scrollWidth") <= width
            out_of_sight = tab.run(
                "[...document.querySelectorAll('#editor:not([hidden]) button')].filter((b) => {"
                "const r = b.getBoundingClientRect();"
                "return r.right > innerWidth + 1 || r.bottom > innerHeight + 1; }).map((b) => b.id)"
            )
            assert out_of_sight == []
            tab.press("Enter")
            tab.wait(EDITOR)
        assert tab.console == []

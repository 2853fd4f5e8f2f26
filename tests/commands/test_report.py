"""`a2s report` on a whole run with hostile file names, read as a browser reads it."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from browser import open_page, scroll_width
from small_run import small

from a2s.commands import report
from a2s.commands import run as run_job
from a2s.config.checks import ReportConfig
from a2s.errors import ConfigError
from a2s.evaluation.table import RUN_COLUMNS, RUN_TITLES

HOSTILE = "<img src=x onerror=document.title='owned'>&\"'$x$"


class Run(NamedTuple):
    """A finished run, and the page about it."""

    out: Path
    page: Path
    html: str


class Page(HTMLParser):
    """Tags, attributes, texts, and tables of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.images: list[dict[str, str | None]] = []
        self.text: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._caption: str | None = None
        self._cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "caption":
            self._caption = ""
        if tag == "tr" and self.tables:
            self._rows.append([])
        if tag in ("td", "th") and self.tables:
            self._rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption" and self._caption is not None:
            self.tables[self._caption] = []
            self._caption = None
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._caption is not None:
            self._caption += data
        elif self._cell:
            self._rows[-1][-1] += data

    @property
    def _rows(self) -> list[list[str]]:
        return list(self.tables.values())[-1]

    @property
    def whole_text(self) -> str:
        return " ".join(" ".join(self.text).split())


def write(page: Path | None, *runs: Path) -> None:
    assert report.run(ReportConfig(runs=runs, out=page)) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, scenes: Any) -> Run:
    """A run whose folder and one test image of which have a hostile name."""
    root = tmp_path_factory.mktemp("report")
    for name, folder in (("images", scenes.images), ("masks", scenes.masks)):
        shutil.copytree(folder, root / name)
        first = min((root / name).iterdir())
        first.rename(first.with_name(HOSTILE + first.suffix))
    shutil.copytree(scenes.train, root / "train")
    last = max((root / "train").iterdir())
    last.rename(last.with_name(HOSTILE + last.suffix))
    (root / "train" / f"damaged{HOSTILE}.jpg").write_bytes(b"no image")
    out = root / f"run {HOSTILE}"
    config = small(scenes, out, images=(str(root / "train"),), max_failure_rate=0.5)
    config = config.model_copy(update={"test": root / "images", "truth": root / "masks"})
    # The arguments are recorded as they were given; those of the test runner are not the command's.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["a2s", "run", str(root / "train"), "--out", str(out)])
        assert run_job.run(config) == 0
    page = root / "page.html"
    write(page, out)
    return Run(out, page, page.read_text("utf-8"))


def test_numbers_are_those_of_scores_json(made: Run) -> None:
    page = Page(made.html)
    (head, *rows) = page.tables["Scores on 4 images"]
    assert head == ["", *(title for title, _ in RUN_COLUMNS)]
    shown = {row[0]: row[1:] for row in rows}
    assert len(shown) == len(RUN_TITLES)
    for name, title in RUN_TITLES.items():
        folder = "detector" if name == "centre" else name
        scores = json.loads((made.out / "scores" / folder / "scores.json").read_bytes())
        prefix = "centre_" if name == "centre" else ""
        expected = [scores[prefix + column] for _, column in RUN_COLUMNS]
        assert shown[title] == ["–" if v is None else f"{v:.3f}" for v in expected], title


def test_it_says_what_run_said_and_what_was_done(made: Run) -> None:
    text = Page(made.html).whole_text
    judged = [line[2:] for line in (made.out / "table.md").read_text().splitlines()]
    for line in judged:
        if line.startswith(("verdict: ", "warning: ")):
            said = line.split(": ", 1)[1]
            assert " ".join(said.split()) in text
    assert "8 in " in text
    assert "data : 1 in failures.jsonl: 1 unsupported " in text
    assert f"damaged{HOSTILE}.jpg" in text


def test_every_part_of_a_run_is_on_the_page(made: Run) -> None:
    page = Page(made.html)
    for title in (
        *("Lowest expected F", "Highest expected F", "Random labels", "Lowest F", "Highest F"),
        *("Tenth 1 of 10", "Position in the frame", "Agreement of heads", "Label correction"),
        *("The exact command", "Steps", "Settings"),
    ):
        assert title in page.whole_text, title
    charts = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    for start in (
        *("Histogram of area", "Histogram of expected f", "Labels by area", "Loss of stage 1"),
        *("Loss of stage 2", "Share of label pixels", "Mean precision", "Mean F over"),
    ):
        assert any(chart.startswith(start) for chart in charts), start
    titles = Counter(
        alt.split(" of ")[0] for image in page.images if " of " in (alt := image["alt"] or "")
    )
    for title in ("map", "label", "corrected label", "prediction", "truth", "Position"):
        assert titles[title] > 0, title


def test_names_are_inert(made: Run) -> None:
    page = Page(made.html)
    assert HOSTILE in page.whole_text
    assert page.tags["script"] == page.tags["iframe"] == page.tags["form"] == 0
    assert not [one for one in page.attributes if one[1].startswith("on")]
    assert all((image["src"] or "").startswith("data:image/") for image in page.images)
    assert any(HOSTILE in (image["alt"] or "") for image in page.images)


def test_nothing_is_fetched_from_elsewhere(made: Run) -> None:
    page = Page(made.html)
    links = [value for _, name, value in page.attributes if name in ("href", "xlink:href", "src")]
    assert len(links) > 20
    assert not [link for link in links if not link.startswith(("#", "data:"))]
    names = {value for _, name, value in page.attributes if name == "id"}
    assert {link[1:] for link in links if link.startswith("#")} <= names
    assert "default-src 'none'" in made.html


def test_pictures_and_tables_can_be_heard_and_reached(made: Run) -> None:
    page = Page(made.html)
    assert page.images
    assert all(image["alt"] for image in page.images)
    assert page.tags["table"] == page.tags["caption"]
    assert page.tags["html"] == page.tags["h1"] == page.tags["main"] == page.tags["nav"] == 1
    assert ("html", "lang", "en") in page.attributes
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_a_browser_has_nothing_to_complain_about(made: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<script>undefined_name()</script>")
    assert open_page(broken, work=tmp_path).console, "the console is not heard"
    opened = open_page(made.page, work=tmp_path)
    assert opened.console == []
    page = Page(opened.html)
    assert page.tags["script"] == 0
    assert page.tags["img"] == Page(made.html).tags["img"]
    assert "<title>owned" not in opened.html


@pytest.mark.parametrize("width_px", [360, 1280])
def test_the_page_is_never_wider_than_the_window(made: Run, tmp_path: Path, width_px: int) -> None:
    assert scroll_width(made.page, width_px=width_px, work=tmp_path) <= width_px


def test_runs_are_compared_side_by_side(made: Run, tmp_path: Path) -> None:
    seeds, labels = made.out / "seeds", made.out / "labels"
    detector = made.out / "scores" / "detector"
    out = tmp_path / "both.html"
    write(out, seeds, labels, detector)
    page = Page(out.read_text("utf-8"))
    scores = json.loads((detector / "scores.json").read_bytes())
    shown = {row[0]: row[1] for row in page.tables["Scores"]}
    assert shown["C: predictions"] == f"{scores['adaptive_f']:.3f}"
    counts = {row[0]: row[1:] for row in page.tables["Labels"]}
    assert counts["number of labels"] == ["8", "8", "–"]
    quality = pq.read_table(labels / "shard-000000.parquet")["quality"].to_pylist()
    quality += pq.read_table(labels / "shard-000001.parquet")["quality"].to_pylist()
    assert counts["mean expected F"][1:] == [f"{sum(quality) / 8:.3f}", "–"]
    assert page.tables["Settings that differ"][1] == ["command", "label", "label", "evaluate"]
    assert "The same images" in page.whole_text
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_a_file_of_others_is_not_replaced(made: Run, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text("<title>mine</title>")
    with pytest.raises(ConfigError, match=r"index\.html exists, and a2s did not write it"):
        report.run(ReportConfig(runs=(made.out,), out=page))
    assert page.read_text() == "<title>mine</title>"
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        report.run(ReportConfig(runs=(tmp_path / "nowhere",)))
    # Its own page is written again.
    page.unlink()
    for _ in range(2):
        assert report.run(ReportConfig(runs=(made.out,), out=page)) == 0


def test_a_run_that_was_stopped_still_has_a_page(made: Run, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    shutil.copytree(made.out, out)
    for name in ("scores", "preds", "test-maps", "stage2"):
        shutil.rmtree(out / name)
    (out / "metrics.jsonl").unlink()
    tar = out / "labels" / "shard-000000.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    write(None, out)
    text = Page((out / "report.html").read_text("utf-8")).whole_text
    assert "none yet, the run has not finished" in text
    assert "does not match its checksum" in text
    assert "Agreement of heads" in text


def test_folders_and_places_that_cannot_work_are_one_line(tmp_path: Path) -> None:
    for out, message in (
        (None, r"holds no config\.yaml of a2s"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "x.html", "there is no folder"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            write(out, tmp_path)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())

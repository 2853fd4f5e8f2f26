"""Pages that are made from the code are as `make pages` writes them; errors all have a cure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from repository import REPO

SITE = REPO / "docs" / "site"


@pytest.fixture(scope="module")
def site() -> Iterator[dict[str, ModuleType]]:
    """The modules that write and check the site, by name."""
    names = ("check_site", "error_messages", "errors_page", "settings_page", "write_pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SITE))
        yield {name: __import__(name) for name in names}
        for name in names:
            sys.modules.pop(name, None)


def test_pages_are_those_of_the_code(site) -> None:
    for path, text in site["write_pages"].pages().items():
        assert path.read_text("utf-8") == text, f"{path.name} is stale: make pages"


def test_every_error_has_a_cure(site) -> None:
    page = (REPO / "docs" / "errors.md").read_text("utf-8")
    cures = site["errors_page"].cures(page)
    texts = {message.text for message in site["error_messages"].messages()}
    assert len(texts) > 200
    assert cures.keys() == texts
    without = [text for text, cure in cures.items() if not cure]
    assert not without, "say in docs/errors.md what to do about it"


def test_no_error_escapes_the_page(site) -> None:
    """Those that pass on the text of another error, and those whose text is all variable."""
    assert site["error_messages"].unread() == {
        "__main__.py: str(error)",
        "evaluation/benchmarks.py: f'{file}: {error}'",
        "evaluation/page/strips.py: self.problem",
        "evaluation/pairs.py: f'{folder}: {state}'",
        "evaluation/truth_check.py: f'{folder}: {why}'",
        "pipeline.py: problems(error, self.command, None)",
        "storage/listing.py: str(error)",
        "storage/objects/session.py: f'{command}: {error}'",
        "storage/remote.py: str(error)",
    }


def test_a_new_message_gets_an_empty_cell_and_the_others_keep_theirs(site) -> None:
    page = (REPO / "docs" / "errors.md").read_text("utf-8")
    lines = [line for line in page.splitlines() if "`no command …`" not in line]
    again = site["errors_page"].page("\n".join(lines))
    assert "| `no command …` |  |" in again.splitlines()
    assert again.replace("| `no command …` |  |", "") == "".join(
        line if "`no command …`" not in line else "\n" for line in page.splitlines(keepends=True)
    )


def test_settings_say_values_and_defaults(site) -> None:
    rows = site["settings_page"].page().splitlines()
    (threshold,) = [row for row in rows if row.startswith("| `--max-side` ")]
    assert "whole number, 16 or above | none |" in threshold
    assert any(
        row.startswith("| `--lam` | number, 0 or above, at most 1 | `0.4` |") for row in rows
    )
    assert any(row.startswith("| `--seed` † |") for row in rows)


def test_a_broken_link_and_a_script_from_elsewhere_are_found(site, tmp_path) -> None:
    good = '<h1 id="top">a</h1><a href="b.html#there">b</a><a href="https://example.org">c</a>'
    (tmp_path / "a.html").write_text(good, "utf-8")
    (tmp_path / "b.html").write_text('<p id="there"></p><img src="x%20y.png">', "utf-8")
    (tmp_path / "x y.png").write_bytes(b"")
    problems = site["check_site"].problems
    assert problems(tmp_path) == []
    bad = '<a href="b.html#gone">b</a><a href="c.html">c</a><script src="//example.org/x.js">'
    (tmp_path / "bad.html").write_text(bad, "utf-8")
    assert problems(tmp_path) == [
        "bad.html: loads //example.org/x.js",
        "bad.html: no b.html#gone",
        "bad.html: no c.html",
    ]
    assert site["check_site"].main([str(tmp_path)]) == 1


def test_every_name_of_the_api_is_in_the_reference() -> None:
    import a2s

    page = (REPO / "docs" / "api-reference.md").read_text("utf-8")
    assert not [name for name in a2s._MODULES if f":: a2s.{name}" not in page]

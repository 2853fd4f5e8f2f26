"""Every table and figure with --quick, end to end: it finishes, with its rows and files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from a2s.commands import ablate
from a2s.config.parse import parse
from a2s.data.synthetic import render_folder
from a2s.paper import material
from a2s.paper.catalogue import CATALOGUE
from a2s.paper.material import gather

PICTURES = ("fig1", "fig4", "fig5", "fig7", "fig8", "fig10", "fig11")
HERE = (*PICTURES, "tab1", "tab4", "tab7", "tab8", "fig9")
ELSEWHERE = ("tab2", "tab3", "tab5", "tab6")
"""They are run in test_ablate.py."""


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("scenes")
    render_folder(root / "train", num_train=0, num_test=8, side_px=64, seed=3)
    render_folder(root / "test", num_train=0, num_test=4, side_px=64, seed=4)
    train, test = root / "train/test", root / "test/test"
    return [
        *("--data", str(train / "images"), "--truth", f"train={train}/masks"),
        *("--test", f"mine={test}/images", "--truth", f"mine={test}/masks"),
        *("--maps", f"DSR={test}/masks", "--quick", "--workers", "0"),
        *("--stage1.batch-size", "4", "--stage2.batch-size", "4"),
    ]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablations") / "out"


def test_every_entry_is_run_somewhere() -> None:
    assert {*HERE, *ELSEWHERE} == {*CATALOGUE}


@pytest.mark.slow
@pytest.mark.parametrize("name", HERE)
def test_quick_form(
    name: str, out: Path, flags: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [name, "--out", str(out), *flags]
    trained = {"fig9": ["DB1", "DB4", "DB5"]}.get(name)
    if trained:
        arguments += ["--rows", ",".join(trained)]
    assert ablate.run(parse("ablate", arguments)) == 0
    printed = capfd.readouterr().out
    assert f"is in {out}/{name}." in printed
    if name in PICTURES:
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 100
        assert f"{name}.png" in printed
        return
    text = (out / f"{name}.md").read_text("utf-8")
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    shown = [cells[0].removeprefix("| ") for cells in lines[2:]]
    config = material.quick_form(parse("ablate", arguments))
    rows = CATALOGUE[name].rows(gather(config, CATALOGUE[name].needs))
    wanted = ["Otsu", "mean", "median"] if name == "tab1" else [*(r.name for r in rows), "centre"]
    assert shown == wanted
    assert (out / f"{name}.csv").read_text("utf-8").count("\n") > len(wanted)
    for row, cells in zip(shown, lines[2:], strict=True):
        scored = any(cell.startswith("0.") for cell in cells[2:5])
        assert scored == (trained is None or row in (*trained, "RBD", "centre")), row
    if name != "tab1":
        assert (out / f"{name}.svg").read_text("utf-8").startswith("<?xml")


@pytest.mark.slow
def test_snapshots_are_not_taken_again(out: Path, flags: list[str]) -> None:
    assert (out / "fig7.png").is_file(), "this test follows that of fig7"
    config = material.quick_form(parse("ablate", ["fig10", "--out", str(out), *flags]))
    rows = CATALOGUE["fig10"].rows(gather(config, "data"))
    commands = [job.command for row in rows for job in row.jobs]
    assert "snapshot" not in commands
    assert "stage2" not in commands

"""Tables run end to end on a few drawn scenes: rows and files, not numbers."""

import csv
import json
import time

import pytest
from status_folders import ask

from a2s.commands import ablate
from a2s.config.parse import parse
from a2s.data.index import Index
from a2s.data.synthetic import render_folder
from a2s.errors import ConfigError
from a2s.paper import material
from a2s.paper.catalogue import CATALOGUE
from a2s.paper.material import gather
from a2s.paper.tables.results import num_parameters
from a2s.paper.tables.rows import Row

pytestmark = pytest.mark.slow
TABLES = ("tab5", "tab6", "tab2", "tab3")
"""In this order: later ones find runs of earlier ones."""


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Flags for eight training scenes with masks, and the smallest networks and inputs."""
    root = tmp_path_factory.mktemp("train")
    render_folder(root, num_train=0, num_test=8, side_px=64, seed=3)
    return [
        *("--data", str(root / "test/images"), "--truth", f"train={root}/test/masks"),
        *("--quick", "--workers", "0", "--stage1.batch-size", "4", "--stage2.batch-size", "4"),
    ]


@pytest.fixture(scope="module")
def flags_of(scenes):
    """Further flags of a table: test sets, maps, and selected rows."""

    def more(name):
        one = ["--test", f"ecssd={scenes.images}", "--truth", f"ecssd={scenes.masks}"]
        two = ["--test", f"mine={scenes.images}", "--truth", f"mine={scenes.masks}"]
        given = ["--maps", f"DSR/mine={scenes.masks}", "--rows", "maps,labels,detector,DSR"]
        return {"tab5": [], "tab6": one, "tab2": [*one, *two, *given], "tab3": []}[name]

    return more


def ablated(name, out, *flags):
    return ablate.run(parse("ablate", [name, "--out", str(out), *flags]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, flags, flags_of):
    out = tmp_path_factory.mktemp("ablations") / "out"
    for name in TABLES:
        assert ablated(name, out, *flags, *flags_of(name)) == 0
    return out


def table_of(out, name):
    """Parse the Markdown table: cells by row name, and the notes."""
    text = (out / f"{name}.md").read_text("utf-8")
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    rows = {cells[0].removeprefix("| "): cells[1:] for cells in lines[2:]}
    return rows, [line for line in text.splitlines() if line.startswith("- ")]


def csv_lines(out, name):
    return list(csv.DictReader((out / f"{name}.csv").read_text("utf-8").splitlines()))


@pytest.mark.parametrize("name", [name for name in TABLES if name != "tab3"])
def test_every_row_has_numbers_for_every_set(finished, flags, flags_of, name):
    config = parse("ablate", [name, "--out", str(finished), *flags, *flags_of(name)])
    rows = CATALOGUE[name].rows(gather(material.quick_form(config), CATALOGUE[name].needs))
    shown, notes = table_of(finished, name)
    assert [*shown] == [*(row.name for row in rows), "centre"]
    lines = csv_lines(finished, name)
    scored = {(line["row"], line["set"]): line["num_images"] for line in lines if line["mae"]}
    assert scored == {
        (row.name, set_): {"train": "8"}.get(set_, "4")
        for row in (*rows, Row("centre", "", scores=rows[0].scores))
        for set_ in row.scores
    }
    assert (finished / f"{name}.svg").read_text("utf-8").startswith("<?xml")
    assert "the paper's ave-F" in notes[0]
    assert "encoder mobilenet_v2 UNTRAINED (paper: resnet50" in notes[1]
    assert "8 images to learn from (paper: 3,000)" in notes[1]
    assert "epochs 2 (paper: 20)" in notes[1]


def test_the_papers_numbers_are_next_to_ours(finished):
    assert "0.845" in table_of(finished, "tab5")[0]["0"]
    assert "0.865" in table_of(finished, "tab6")[0]["1"]
    assert "0.880" in table_of(finished, "tab2")[0]["detector"]
    assert "0.888" in table_of(finished, "tab2")[0]["Stage 2 ‡"]


def test_given_maps_are_scored_like_ours(finished):
    (scores,) = [
        line for line in csv_lines(finished, "tab2") if line["row"] == "DSR" and line["mae"]
    ]
    assert (scores["set"], float(scores["mae"])) == ("mine", 0)


def test_shared_runs_exist_once(finished):
    assert sorted(path.name for path in finished.iterdir() if path.is_dir()) == ["rows", "shared"]
    assert sorted(path.name for path in (finished / "rows").iterdir()) == [
        *(f"stage1-alpha-{value}" for value in ("0", "0.2", "0.3")),
        *(f"stage2-lam-{value}" for value in ("0", "0.2", "0.6", "0.8", "1")),
    ]
    assert len(list((finished / "shared/cache").glob("features-*.bin"))) == 1
    assert not list((finished / "rows").glob("*/labels/train/stage2"))


def test_tab3_finds_every_run(finished):
    shown, _ = table_of(finished, "tab3")
    assert "out/shared/stage1" in shown
    assert "out/rows/stage2-lam-0.6/stage2" in shown
    assert "out/shared/labels/train" in shown
    assert "paper: USPS" in shown
    count = num_parameters(finished / "shared/stage2")
    cells = shown["out/shared/stage2"]
    assert cells[:4] == ["stage2", "mobilenet_v2", "none (untrained)", "64"]
    assert cells[4] == f"{count / 1e6:.2f}"
    assert cells[5] == "2 of 2"
    assert float(cells[6].removesuffix(" |")) > 0


def test_number_of_parameters_equals_the_networks(finished):
    import torch

    from a2s.config.training import Stage2Options
    from a2s.training.setup import start_stage2

    options = Stage2Options(encoder={"name": "mobilenet_v2"})
    network, _, _ = start_stage2(options, None, device=torch.device("cpu"))
    wanted = sum(parameter.numel() for parameter in network.parameters())
    assert num_parameters(finished / "shared/stage2") == wanted


def test_a_second_call_changes_nothing_and_prints(finished, flags, flags_of, capsys):
    def results():
        own = {".lock", "environment.json", "metrics.jsonl", "failures.jsonl"}
        files = (path for path in finished.rglob("*") if path.is_file())
        return {path: path.stat().st_mtime_ns for path in files if path.name not in own}

    before = results()
    start = time.process_time()  # not the wall clock: other processes may hold the machine
    assert ablated("tab6", finished, *flags, *flags_of("tab6")) == 0
    assert time.process_time() - start < 5
    assert results() == before
    assert "| 0.6 | lambda 0.6 |" in capsys.readouterr().out


def test_interrupted_table_resumes_and_keeps_its_time(flags, tmp_path, monkeypatch, capfd):
    from a2s.commands import evaluate

    score, calls = evaluate.run, []

    def interrupted(config):
        calls.append(config.out)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(config)

    monkeypatch.setattr(evaluate, "run", interrupted)
    out, rows = tmp_path / "out", ["--rows", "0.1,0.3"]
    with pytest.raises(KeyboardInterrupt):
        ablated("tab5", out, *flags, *rows)
    assert not (out / "tab5.md").exists()
    found = ask(out, capfd)
    assert (found["command"], found["state"]) == ("ablate", "stopped")
    trained = (out / "rows/stage1-alpha-0.3/stage1/commits/00002.json").stat().st_mtime_ns
    assert ablated("tab5", out, *flags, *rows) == 0
    assert (out / "rows/stage1-alpha-0.3/stage1/commits/00002.json").stat().st_mtime_ns == trained
    assert ask(out, capfd)["state"] == "finished"
    shown, _ = table_of(out, "tab5")
    assert shown["0.2"][1:3] == ["–", "0.862"]
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    attempts = [r for r in log if r.get("out") == "shared/stage1" and "elapsed_sec" in r]
    assert len(attempts) == 2
    assert float(shown["0.1"][-1].removesuffix(" |")) == pytest.approx(
        attempts[0]["elapsed_sec"] / 3600, abs=6e-5
    )
    # Another table, or more rows, in the same folder.
    monkeypatch.setattr("a2s.commands.stage1.run", lambda config: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ablated("tab5", out, *flags, *rows)
    found = ask(out, capfd)
    assert (found["state"], found["stopped"]["why"][:17]) == ("stopped", "ZeroDivisionError")


def test_shards_are_used_in_place_unless_limited(finished, tmp_path):
    shards = finished / "shared/data"
    arguments = ["tab5", "--out", str(tmp_path), "--data", str(shards)]
    whole = gather(parse("ablate", arguments), "masks")
    assert (whole.data, whole.packing) == (shards, ())
    assert whole.train.truth == shards
    part = gather(parse("ablate", [*arguments, "--limit", "3"]), "masks")
    (job,) = part.packing
    assert job.settings["images"] == (str(shards / "shard-000000.tar"),)
    assert part.train.truth == part.data == tmp_path / "shared/data"
    from a2s.pipeline import run_jobs

    assert run_jobs([job]) == 0
    index = Index.load(part.data)
    assert len(index) == 3
    assert (index.mask_offset_N >= 0).all()


def test_other_settings_for_an_existing_run_are_refused(finished, flags):
    with pytest.raises(ConfigError, match=r"shared/stage1 was made with other settings .*seed"):
        ablated("tab5", finished, *flags, "--stage1.seed", "5", "--rows", "0.1")


def test_unknown_table_and_row_are_refused_before_anything_is_written(flags, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"no table or figure 'tab'.*known: tab1"):
        ablated("tab", out, *flags)
    with pytest.raises(ConfigError, match=r"no row '7' \(its rows: 0, 0.1, 0.2, 0.3, RBD\)"):
        ablated("tab5", out, *flags, "--rows", "7")
    assert not out.exists()


def test_sections_of_a_file_and_repeated_flags(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("stage1: {epochs: 3}\nablate: {test: [a=x, b=y], stage2: {lr: 0.2}}")
    flags = ["tab6", "--out", "o", f"--config={file}", "--test", "b=z", "--test", "c=w"]
    config = parse("ablate", flags)
    assert (config.stage1.epochs, config.stage2.lr) == (3, 0.2)
    assert config.test == ("a=x", "b=y", "b=z", "c=w")
    with pytest.raises(ConfigError, match="'ecssd' is not NAME=FOLDER"):
        parse("ablate", ["tab6", "--out", "o", "--test", "ecssd"])
    with pytest.raises(ConfigError, match="'a/b=c' is not NAME=FOLDER"):
        parse("ablate", ["tab6", "--out", "o", "--truth", "a/b=c"])

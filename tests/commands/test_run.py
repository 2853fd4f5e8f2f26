import json
import time

import pytest
from small_run import small

from a2s.commands import run as run_job
from a2s.commands.run import read_rows, score_table
from a2s.config.base import EncoderConfig
from a2s.config.run import RunConfig
from a2s.config.training import Stage1Config, Stage1Options, Stage2Options
from a2s.errors import A2SError, ConfigError
from a2s.evaluation.table import RUN_COLUMNS
from a2s.pipeline import job_list


def commands(config):
    return [(job.command, job.out.relative_to(config.out).as_posix()) for job in job_list(config)]


def test_job_list_without_truth(tmp_path, scenes):
    assert commands(small(scenes, tmp_path, test=None, truth=None)) == [
        ("shard", "data"),
        ("label", "seeds"),
        ("stage1", "stage1"),
        ("label", "labels"),
        ("stage2", "stage2"),
        ("predict", "preds"),
    ]


def test_job_list_with_truth_scores_every_stage(tmp_path, scenes):
    assert commands(small(scenes, tmp_path)) == [
        ("shard", "data"),
        ("shard", "test-data"),
        ("label", "seeds"),
        ("stage1", "stage1"),
        ("label", "labels"),
        ("stage2", "stage2"),
        ("predict", "preds"),
        ("predict", "test-maps"),
        ("predict", "test-rbd"),
        ("predict", "test-bundled"),
        ("label", "test-labels"),
        ("evaluate", "scores/maps"),
        ("evaluate", "scores/labels"),
        ("evaluate", "scores/detector"),
        ("evaluate", "scores/rbd"),
        ("evaluate", "scores/bundled"),
    ]


def test_from_the_bundled_models_no_stage_1_is_trained(tmp_path, scenes):
    config = small(scenes, tmp_path, init="bundled")
    jobs = job_list(config)
    assert [path for _, path in commands(config)[:5]] == [
        *("data", "test-data", "labels", "stage2", "preds")
    ]
    by_folder = {job.out.name: job.settings for job in jobs if job.command != "evaluate"}
    assert by_folder["labels"]["model"] == by_folder["test-labels"]["model"] == "bundled"
    assert by_folder["test-maps"]["model"] == "bundled-activation"
    assert by_folder["stage2"]["init"] == "bundled"


@pytest.mark.parametrize(
    ("changes", "init"),
    [
        ({}, "bundled"),
        ({"init": "none"}, "none"),
        ({"seeds": "rbd"}, "none"),
        ({"stage1": Stage1Options(encoder=EncoderConfig(name="efficientnet_lite2"))}, "bundled"),
        ({"stage1": Stage1Options(encoder=EncoderConfig(name="mobilenet_v2"))}, "bundled"),
        ({"stage1": Stage1Options(encoder=EncoderConfig(weights="resnet50/imagenet"))}, "none"),
        ({"stage2": Stage2Options(encoder=EncoderConfig(name="timm:resnet18"))}, "none"),
        ({"stage2": Stage2Options(init="bundled")}, "none"),
    ],
)
def test_another_start_switches_the_bundled_models_off(tmp_path, changes, init):
    assert RunConfig(images=("photos",), out=tmp_path, **changes).init == init


def test_truth_without_test_images_scores_the_images_themselves(tmp_path, scenes):
    jobs = job_list(small(scenes, tmp_path, test=None))
    scored = {job.out.name: job.settings["pred"].name for job in jobs if job.command == "evaluate"}
    ours = {"maps": "test-maps", "labels": "labels", "detector": "preds"}
    assert scored == {**ours, "rbd": "test-rbd", "bundled": "test-bundled"}


def test_without_seeds_stage1_learns_without_labels(tmp_path, scenes):
    jobs = job_list(small(scenes, tmp_path, seeds="none"))
    assert "seeds" not in {job.out.name for job in jobs}
    settings = {job.command: job.settings for job in jobs}["stage1"]
    assert Stage1Config(**settings).labels is None
    assert (Stage1Config(**settings).label_heads, Stage1Config(**settings).heads) == (0, 1)
    jobs = {job.command: job for job in job_list(small(scenes, tmp_path))}
    seeded = Stage1Config(**jobs["stage1"].settings)
    assert (seeded.labels, seeded.label_heads, seeded.heads, seeded.frame) == (
        *(tmp_path / "seeds", 2),
        *(4, 64),
    )


def test_one_seed_for_both_stages(tmp_path, scenes):
    jobs = {job.command: job for job in job_list(small(scenes, tmp_path, seed=7))}
    assert jobs["stage1"].settings["seed"] == jobs["stage2"].settings["seed"] == 7


def test_batch_that_the_processes_cannot_share_is_refused_first(tmp_path, scenes):
    with pytest.raises(ConfigError, match=r"stage1.batch_size 4 .* 3 training processes"):
        run_job.run(small(scenes, tmp_path / "run", processes=3))
    assert not (tmp_path / "run").exists()


def test_missing_images_are_an_error_that_names_them(tmp_path, scenes):
    missing = tmp_path / "nowhere"
    with pytest.raises(A2SError, match="nowhere"):
        run_job.run(small(scenes, tmp_path / "run", images=(str(missing),)))


def test_score_table(tmp_path):
    counts = {"num_images": 5, "num_touching": 2, "truth_ring_share": 0.25}
    columns = [column for _, column in RUN_COLUMNS]
    for number, name in enumerate(["maps", "labels", "detector", "rbd", "bundled"]):
        (tmp_path / name).mkdir()
        values = dict.fromkeys(columns, 0.25 * number)
        centre = {f"centre_{column}": 0.1 for column in columns}
        content = {**values, **centre, **counts, "which_f": "the best"}
        (tmp_path / name / "scores.json").write_text(json.dumps(content))
    lines = score_table(read_rows(tmp_path)).splitlines()
    assert lines[0].startswith(
        "| maps | adaptive F | F touching | F others | ring share | mean F |"
    )
    assert lines[4] == "| detector (stage 2) |" + " 0.500 |" * 9
    assert lines[5] == "| bundled detector |" + " 1.000 |" * 9
    assert lines[6].startswith("| centre: one Gaussian in the middle of every image | 0.100 |")
    assert lines[7] == "| RBD, without training |" + " 0.750 |" * 9
    assert "the 2 of 5 images" in lines[9]
    assert lines[10:] == ["", "Which F: the best."]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, scenes):
    config = small(scenes, tmp_path_factory.mktemp("run") / "out")
    assert run_job.run(config) == 0
    return config


def test_whole_run_writes_what_it_says(finished, scenes):
    out = finished.out
    assert {path.name for path in out.iterdir()} == {
        *(".lock", "config.yaml", "environment.json", "metrics.jsonl", "sheet.png", "table.md"),
        *("data", "labels", "preds", "scores", "seeds", "stage1", "stage2"),
        *("test-data", "test-labels", "test-maps", "test-rbd", "test-bundled"),
    }
    tests = sorted(path.stem for path in scenes.images.iterdir())
    assert sorted(path.name for path in (out / "preds").glob("*.png")) == sorted(
        [f"{name}.png" for name in tests] + [f"{name}.cutout.png" for name in tests]
    )
    assert sorted(p.name for p in (out / "test-maps").glob("*.png")) == [f"{n}.png" for n in tests]
    assert sorted(p.name for p in (out / "test-rbd").glob("*.png")) == [f"{n}.png" for n in tests]
    for name in ("maps", "labels", "detector", "rbd", "bundled"):
        scores = json.loads((out / "scores" / name / "scores.json").read_text())
        assert 0 <= scores["mae"] <= 1
        assert scores["num_images"] == len(tests)
    assert (out / "table.md").read_text().startswith(score_table(read_rows(out / "scores")))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    done = [line["job"] for line in lines if line.get("exit_code") == 0]
    assert done[:16] == [job.command for job in job_list(finished)]


def test_second_run_changes_nothing_and_is_quick(finished, capsys):
    def results():
        own = {".lock", "environment.json", "metrics.jsonl", "table.md", "sheet.png"}
        own |= {"failures.jsonl"}  # written anew with the same lines
        files = (path for path in finished.out.rglob("*") if path.is_file())
        return {path: path.stat().st_mtime_ns for path in files if path.name not in own}

    before = results()
    start = time.process_time()  # not the wall clock: other processes may hold the machine
    assert run_job.run(finished) == 0
    assert time.process_time() - start < 5
    assert results() == before
    printed, steps = capsys.readouterr()
    assert "| detector (stage 2) |" in printed
    assert "UNTRAINED" in printed
    # What comes next is said once, by the run, not by every step.
    assert "predict: " in steps
    (said,) = [line for line in (printed + steps).splitlines() if line.startswith("next: ")]
    assert said.endswith("--out OUT --cutout")


def test_other_settings_of_a_step_that_is_done_are_refused(finished):
    other = finished.model_copy(update={"seed": 5})
    with pytest.raises(ConfigError, match=r"stage1: .*seed: 0 there, 5 now"):
        run_job.run(other)
    assert run_job.run(finished) == 0


def test_sheet_has_a_row_per_test_image(finished):
    import cv2

    from a2s.evaluation.pictures.grid import GAP_PX, TITLE_PX

    height, width, _ = cv2.imread(str(finished.out / "sheet.png")).shape
    assert height == TITLE_PX + 4 * (160 + GAP_PX)
    assert width == 5 * (160 + GAP_PX) - GAP_PX

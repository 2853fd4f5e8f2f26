"""The list of commands that `run` and `ablate` work through."""

import pytest
import yaml
from processes import pack

from a2s.config.base import EncoderConfig
from a2s.config.training import Stage1Options, Stage2Options
from a2s.errors import ConfigError
from a2s.pipeline import Job, chosen, run_jobs, stage2_jobs, training_processes


def test_first_job_over_the_failure_rate_stops_the_list(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("a2s.commands.shard.run", lambda config: 3)
    jobs = [Job("shard", {"images": ("a",), "out": tmp_path / "data"})] * 2
    records = []
    assert run_jobs(jobs, log=lambda **fields: records.append(fields)) == 3
    assert [record.get("event") for record in records] == ["begins", None]
    assert records[1]["exit_code"] == 3
    assert records[1]["key"] == records[0]["key"] == f"{jobs[0].key}-1"
    assert "run: stopped after shard" in capsys.readouterr().err


def test_interrupted_job_leaves_its_time(tmp_path, monkeypatch):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr("a2s.commands.shard.run", interrupted)
    records = []
    with pytest.raises(KeyboardInterrupt):
        run_jobs(
            [Job("shard", {"images": ("a",), "out": tmp_path / "data"})],
            log=lambda **fields: records.append(fields),
        )
    assert records[-1]["exit_code"] is None
    assert records[-1]["elapsed_sec"] >= 0


def test_jobs_for_one_folder_are_told_apart(tmp_path):
    jobs = [Job("stage1", {"out": tmp_path, "until_epoch": epoch}) for epoch in (1, 2, 2)]
    assert jobs[0].key != jobs[1].key == jobs[2].key
    elsewhere = Job("stage1", {"out": tmp_path / "x", "until_epoch": 1})
    assert elsewhere.key == jobs[0].key


def test_stage2_takes_turns_with_hma(tmp_path):
    paths = {"out": tmp_path / "s2", "data": tmp_path / "d", "labels": tmp_path / "l"}
    job = Job("stage2", {**paths, "epochs": 4, "warm_epochs": 2, "rectify": "hma"})
    turns = stage2_jobs(job, workers=0)
    assert [(turn.command, turn.settings.get("until_epoch")) for turn in turns] == [
        *(("stage2", 3), ("hma", None)),
        *(("stage2", 4), ("hma", None)),
        ("stage2", None),
    ]
    assert turns[1].settings == {**paths, "workers": 0}
    plain = Job("stage2", {**job.settings, "rectify": "olr"})
    assert stage2_jobs(plain, workers=0) == [plain]


def test_batch_sizes_must_be_divisible_by_the_processes():
    sections = {"stage1": Stage1Options(batch_size=6), "stage2": Stage2Options(batch_size=4)}
    assert training_processes("ablate", 2, sections) == 2
    with pytest.raises(ConfigError, match=r"ablate: stage2.batch_size 4 .* 3 training processes"):
        training_processes("ablate", 3, sections)
    compiles = {"stage1": Stage1Options(compile=True)}
    assert training_processes("run", 1, compiles) == 1
    with pytest.raises(ConfigError, match=r"run: stage1.compile .* --processes 1"):
        training_processes("run", 2, compiles)


def test_training_starts_as_several_ranks(scenes, tmp_path, capfd):
    settings = Stage1Options(
        encoder=EncoderConfig(name="mobilenet_v2"),
        image_size=64,
        batch_size=4,
        epochs=1,
        fusion_stride=8,
        loader_workers=0,
        cache_dir=tmp_path / "cache",
    )
    data, out = pack(scenes.train, tmp_path / "data"), tmp_path / "row" / "stage1"
    job = Job("stage1", {"data": data, "out": out, **chosen(settings)})
    capfd.readouterr()
    assert run_jobs([job], processes=2) == 0
    assert (out / "commits" / "00001.json").is_file()
    launched = yaml.safe_load((out.parent / "stage1.launch.yaml").read_text())
    assert launched["stage1"]["batch_size"] == 4
    printed = capfd.readouterr()
    assert "2 rank(s)" in printed.err
    assert printed.out == ""


def test_rank_that_fails_ends_the_run_and_says_why(tmp_path, capfd):
    settings = {"data": tmp_path / "no-data", "out": tmp_path / "stage1"}
    assert run_jobs([Job("stage1", settings)], processes=2) == 1
    assert "no-data" in capfd.readouterr().err

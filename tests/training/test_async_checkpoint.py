"""Commits that are written beside the training: the same commits, and nobody else's files."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest
import torch
from label_shards import write_labels
from processes import pack

from a2s.__main__ import run
from a2s.errors import DataError
from a2s.parallel import rank_main, ranks
from a2s.storage import checkpoints
from a2s.training.async_checkpoint import AsyncCheckpointer

WEIGHTS = {"w": torch.zeros(2, 3)}


def begin(commits: AsyncCheckpointer, out: Path, number: int, **more) -> None:
    commits.begin(
        out,
        number,
        model=WEIGHTS,
        metadata={"kind": "none"},
        optimizer={"momentum_buffer/w": WEIGHTS["w"]},
        state={"epoch": number, "step": 0, "finished": False},
        **more,
    )


def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Keep commits from being written until the event is set."""
    go, save = threading.Event(), checkpoints.save

    def later(*args, **named):
        assert go.wait(60)
        return save(*args, **named)

    monkeypatch.setattr(checkpoints, "save", later)
    return go


def test_what_is_committed_is_what_was_there_when_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, durable = held(monkeypatch), []

    def look() -> None:
        durable.append(checkpoints.last_commit(tmp_path))

    with AsyncCheckpointer() as commits:
        WEIGHTS["w"].fill_(1)
        begin(commits, tmp_path, 1, list_stale=lambda: look)
        WEIGHTS["w"].fill_(2)
        assert checkpoints.last_commit(tmp_path) is None, "it should be held up"
        go.set()
    commit = checkpoints.last_commit(tmp_path)
    assert durable == [commit]
    assert commit is not None
    model, optimizer, state = checkpoints.load(commit)
    assert torch.equal(model["w"], torch.ones(2, 3))
    assert torch.equal(optimizer["momentum_buffer/w"], torch.ones(2, 3))
    assert state["epoch"] == 1


def test_one_commit_comes_after_the_other(tmp_path: Path) -> None:
    with AsyncCheckpointer() as commits:
        for number in range(1, 6):
            begin(commits, tmp_path, number)
    assert sorted(path.name for path in (tmp_path / "commits").iterdir()) == [
        "00004.json",
        "00005.json",
    ]


def test_what_is_to_be_cleaned_is_listed_when_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, seen = held(monkeypatch), []

    def listing():
        commit = checkpoints.last_commit(tmp_path)
        seen.append(commit and commit.number)
        return lambda: None

    with AsyncCheckpointer() as commits:
        begin(commits, tmp_path, 1, list_stale=listing)
        threading.Timer(0.3, go.set).start()
        begin(commits, tmp_path, 2, list_stale=listing)
    assert seen == [None, 1]


def test_what_was_begun_is_finished_when_training_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = held(monkeypatch)
    threading.Timer(0.3, go.set).start()

    def train() -> None:
        with AsyncCheckpointer() as commits:
            begin(commits, tmp_path, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert checkpoints.last_commit(tmp_path) is not None


def test_what_was_begun_is_finished_before_any_rank_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = held(monkeypatch)
    with AsyncCheckpointer() as commits:
        begin(commits, tmp_path, 1)
        threading.Timer(0.3, go.set).start()
        with pytest.raises(DataError, match="the news"), ranks.fail_together():
            raise DataError("the news")
        assert checkpoints.last_commit(tmp_path) is not None
    assert ranks.before_exit == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("the news")])
def test_a_commit_that_fails_does_not_hide_why_training_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    (tmp_path / "commits").write_text("a file where a folder should be")

    def train() -> None:
        with AsyncCheckpointer() as commits:
            begin(commits, tmp_path, 1)
            raise error

    with pytest.raises(type(error)):
        train()
    assert "the commit that was being written failed as well" in capsys.readouterr().err


def test_to_check_is_not_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = held(monkeypatch)
    with AsyncCheckpointer() as commits:
        begin(commits, tmp_path, 1)
        commits.check()
        assert checkpoints.last_commit(tmp_path) is None
        go.set()


@pytest.mark.parametrize("when", ["check", "next", "wait", "end"])
def test_a_commit_that_cannot_be_written_is_heard_of(tmp_path: Path, when: str) -> None:
    (tmp_path / "commits").write_text("a file where a folder should be")
    reached = []

    def train() -> None:
        with AsyncCheckpointer() as commits:
            begin(commits, tmp_path, 1)
            deadline = time.monotonic() + 60
            while when == "check" and time.monotonic() < deadline:
                commits.check()
            if when == "next":
                begin(commits, tmp_path, 2)
            elif when == "wait":
                commits.wait()
            reached.append("end")

    with pytest.raises(FileExistsError):
        train()
    assert bool(reached) == (when == "end")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_training_ends_soon_after_a_commit_failed(
    scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    data, out = pack(scenes.train, tmp_path / "data"), tmp_path / "out"
    command = [stage, "--data", str(data), "--out", str(out), "--epochs", "3", "--log-every", "1"]
    command += ["--encoder.name", "mobilenet_v2", "--image-size", "32", "--batch-size", "1"]
    command += ["--loader-workers", "0"]
    if stage == "stage2":
        command += ["--labels", str(write_labels(data, tmp_path / "labels"))]

    def full(*args, **named) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save", full)
    monkeypatch.setattr(rank_main, "report_to_launcher", lambda function: function)
    with pytest.raises(OSError, match="No space left"):
        run(command)
    steps = (out / "metrics.jsonl").read_text().splitlines()
    assert 8 <= len(steps) < 16, "one epoch, and not to the end of the next"


@pytest.mark.parametrize("every", ["0", "1"])
def test_labels_written_meanwhile_stay(
    scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: str
) -> None:
    """A commit that takes until the next labels are being written removes none of them."""
    data = pack(scenes.train, tmp_path / "data")
    labels = write_labels(data, tmp_path / "labels")
    command = ["stage2", "--data", str(data), "--labels", str(labels), "--epochs", "4"]
    command += ["--encoder.name", "mobilenet_v2", "--image-size", "32", "--batch-size", "2"]
    command += ["--loader-workers", "0", "--warm-epochs", "1", "--commit-every", every]
    monkeypatch.setattr(rank_main, "report_to_launcher", lambda function: function)
    assert run([*command, "--out", str(tmp_path / "plain")]) == 0
    save, waited = checkpoints.save, []

    def slow(out: Path, number: int, **named):
        before = set(out.glob("labels/*/*.rows"))
        commit = save(out, number, **named)
        state = named["state"]
        if state["finished"] or not state["epoch"]:
            # No step follows, or one of the warm epoch, and neither writes labels.
            return commit
        # Training goes on until it comes to its own next commit, labels written.
        deadline = time.monotonic() + 60
        while not set(out.glob("labels/*/*.rows")) - before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        waited.append(number)
        return commit

    monkeypatch.setattr(checkpoints, "save", slow)
    assert run([*command, "--out", str(tmp_path / "slow")]) == 0
    assert len(waited) >= 3
    results = []
    for name in ("plain", "slow"):
        out = tmp_path / name
        commit = checkpoints.last_commit(out)
        assert commit is not None
        files = sorted(out.glob("rectified/*")) + sorted(out.glob("labels/**/*.*"))
        read = {str(path.relative_to(out)): path.read_bytes() for path in files if path.is_file()}
        results.append((commit.sha256, read))
    assert results[0] == results[1]

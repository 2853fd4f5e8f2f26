"""`a2s hma` killed: the run is unchanged, and the same command finishes the pass."""

from __future__ import annotations

from pathlib import Path

import pytest
from moving_average_run import Case, contents, pack_photographs, train_until_it_waits
from processes import start_ranks

from a2s.labels.store import generations
from a2s.labels.store.rows import read_header
from a2s.paper.hma import chunk
from a2s.storage import checkpoints


@pytest.fixture(scope="module")
def waiting(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp("kill_hma")
    return train_until_it_waits(shared, pack_photographs(shared, root), root / "run")


def test_killed_during_the_pass_and_resumed(waiting: Case, tmp_path: Path) -> None:
    case, whole = waiting.copied(tmp_path / "run"), waiting.copied(tmp_path / "whole")
    before = case.state()
    (process,) = start_ranks(
        case.averaging_arguments("--workers", "0"), world=1, hold_at="averages/00001/*.rows"
    )
    process.wait_until_held()
    process.kill()
    process.communicate()
    assert process.returncode == -9
    assert case.state() == before, "killed too late to mean anything"
    written = {path: path.stat().st_mtime_ns for path in case.out.glob("labels/00001/*.rows")}
    for one in (case, whole):
        done = one.averaging()
        assert done.code == 0, done.stderr
    assert contents(case.out) == contents(whole.out)
    assert case.events()[-1]["num_new"] == 9 - sum(
        read_header(case.out / "labels", f"00001/{path.name}").file.count for path in written
    )
    for path, time_ns in written.items():
        assert path.stat().st_mtime_ns == time_ns, "what was finished is not done again"
    assert not [path for path in case.out.rglob(".*.tmp") if "rows" in path.name]


@pytest.mark.parametrize("at", ["publish", "save_again"])
def test_interrupted_between_rows_and_commit(
    waiting: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    case, whole = waiting.copied(tmp_path / "run"), waiting.copied(tmp_path / "whole")
    before = case.state()
    owner = generations if at == "publish" else checkpoints

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, at, stop)
        with pytest.raises(KeyboardInterrupt):
            case.averaging()
    assert case.state() == before
    updated = []
    monkeypatch.setattr(chunk, "write_rows", lambda *args: updated.append(args))
    assert case.averaging().code == 0
    assert not updated
    monkeypatch.undo()
    assert whole.averaging().code == 0
    assert contents(case.out) == contents(whole.out)

"""`--tracker` of both stages: what each program of Accelerate's finds afterwards."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest
from label_shards import write_labels
from processes import call, pack

from a2s.errors import ConfigError
from a2s.parallel.trackers import start_trackers

SMALL = "--encoder.name mobilenet_v2 --image-size 32 --batch-size 4 --epochs 1 --loader-workers 0"


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(scenes.train, tmp_path_factory.mktemp("trackers") / "data")


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "mlflow"])
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_tracker_has_the_log_and_the_settings(
    stage: str, tracker: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(tracker)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    out = tmp_path / "out"
    labels = []
    if stage == "stage2":
        labels = ["--labels", write_labels(data, tmp_path / "labels")]
    words = [stage, "--data", data, *labels, "--out", out, *SMALL.split(), "--tracker", tracker]
    done = call(*words)
    assert done.code == 0, done.stderr
    if tracker == "tensorboard":
        (settings,) = (out / "tracker").rglob("hparams.yml")
        assert "batch_size: 4" in settings.read_text()
        assert list((out / "tracker").rglob("events.out.tfevents.*"))
    elif tracker == "wandb":
        (log,) = (out / "tracker").rglob("*.wandb")
        # A process of W&B writes it.
        deadline = time.monotonic() + 30
        while b"batch_size" not in (content := log.read_bytes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert b"batch_size" in content
        assert b"lr" in content
        assert f"a2s-{stage}".encode() in content
    else:
        (metric,) = (tmp_path / "mlruns").rglob("metrics/lr")
        assert len(metric.read_text().split()) >= 3
        (parameter,) = (tmp_path / "mlruns").rglob("params/batch_size")
        assert parameter.read_text() == "4"


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_is_missing_is_one_line(
    tracker: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    out = tmp_path / "out"
    done = call("stage1", "--data", data, "--out", out, *SMALL.split(), "--tracker", tracker)
    assert done.code == 2
    assert f"{tracker} is not installed; `pip install 'a2s[{tracker}]'`" in done.stderr
    assert not out.exists()


def test_trackers_are_looked_for_where_they_are() -> None:
    from accelerate.tracking import get_available_trackers

    names = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    assert ("tensorboard" in names) == (importlib.util.find_spec("tensorboard") is not None)


def test_a_tracker_that_cannot_begin_is_one_line(tmp_path: Path) -> None:
    class Unreachable:
        project_dir = tmp_path / "tracker"

        def init_trackers(self, *arguments: object, **others: object) -> None:
            raise RuntimeError("api_key not configured\n(no-tty)")

    with pytest.raises(ConfigError, match=r"cannot begin \(api_key not configured \(no-tty\)\)"):
        start_trackers(Unreachable(), "a2s-stage1", {})  # type: ignore[arg-type]

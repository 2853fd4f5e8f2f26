"""Failure under a launcher, which kills all ranks when one exits: the error message is printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment, pack

SLOW = """
import time
from a2s.storage import checkpoints
from a2s.__main__ import main
save = checkpoints.save
def slow(*args, **named):
    time.sleep(3)
    return save(*args, **named)
checkpoints.save = slow
main()
"""


@pytest.mark.slow
def test_error_message_is_not_lost_while_a_commit_is_written(scenes, tmp_path: Path) -> None:
    data, out, script = (
        pack(scenes.train, tmp_path / "data"),
        tmp_path / "out",
        tmp_path / "slow.py",
    )
    script.write_text(SLOW, encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", "2", str(script), "stage1", "--data", str(data)),
            *("--out", str(out), "--encoder.name", "mobilenet_v2", "--image-size", "32"),
            *("--batch-size", "2", "--loader-workers", "0", "--log-every", "1"),
            # The first step is fine, and is being committed when the second one is not.
            *("--commit-every", "1", "--lr", "1e30", "--cache-gib", "0"),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode
    told = [line for line in done.stderr.splitlines() if line.startswith("a2s: ")]
    assert len(told) == 1, done.stderr
    assert "the loss is not finite at epoch 1 step 2" in told[0]
    assert [path.name for path in (out / "commits").iterdir()] == ["00001.json"]

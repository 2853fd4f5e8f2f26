"""Refinement of photographs at camera resolution."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from labelling_run import write_data
from PIL import Image
from repository import REPO

from a2s.data.synthetic import draw_scene


def test_twelve_megapixels_in_five_seconds_and_a_gibibyte(tmp_path: Path) -> None:
    scene = Image.fromarray(draw_scene(seed=1, index=0, side_px=320).image_HW3)
    buffer = io.BytesIO()
    scene.resize((4000, 3000), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    data = write_data(tmp_path / "data", [[("big", buffer.getvalue())]])
    code = (
        "import re, sys, time\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from a2s.data.index import Index\n"
        "from a2s.data.chunks import chunks\n"
        "from a2s.labels.making.chunk import Activated, refine_chunk\n"
        "from a2s.labels.crf import CrfParams, crf_of, energy_of\n"
        "from a2s.labels.refine import Recipe\n"
        "(chunk,) = chunks(Index.load(Path(sys.argv[1])), todo=[0], size=1)\n"
        "theta = np.random.default_rng(0).normal(size=(80, 80)).astype(np.float32)\n"
        "started = time.process_time()\n"
        "recipe = Recipe(energy_of('hard'), crf_of('pydensecrf'), CrfParams())\n"
        "done = refine_chunk(chunk, Activated({0: theta}, {}, {}, {}, {}), recipe)\n"
        "(made,) = done.labels.values()\n"
        "assert (made.height, made.width) == (3000, 4000)\n"
        # Not ru_maxrss, which includes the parent process from before the fork.
        "peak_kib = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]\n"
        "print(time.process_time() - started, int(peak_kib) / 2**20)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(data)],
        cwd=REPO,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"},
    )
    cpu_sec, peak_gib = map(float, done.stdout.split())
    assert cpu_sec < 5
    assert peak_gib < 1

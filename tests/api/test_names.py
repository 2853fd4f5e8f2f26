"""The names of the package, and the network inside it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from repository import REPO

import a2s


def test_every_name_is_there() -> None:
    names = set(a2s._MODULES)
    assert names <= set(dir(a2s))
    for name in names:
        found = getattr(a2s, name)
        assert found.__name__ == name
        assert found.__doc__
    with pytest.raises(AttributeError, match="no attribute 'Detectr'"):
        _ = a2s.Detectr  # type: ignore[attr-defined]


def test_every_name_is_on_the_page() -> None:
    page = (REPO / "docs" / "api.md").read_text("utf-8")
    assert [
        name for name in a2s._MODULES if f"`{name}" not in page and f"a2s.{name}" not in page
    ] == []


def test_the_api_loads_torch_only_to_predict() -> None:
    code = "import sys; from a2s import Detector, LabelSet, shard; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("model", ["bundled", "bundled-activation"])
def test_the_bundled_networks(model: str, scenes, tmp_path) -> None:
    photo = sorted(scenes.images.iterdir())[0]
    detector = a2s.Detector.load() if model == "bundled" else a2s.Detector.load(model)
    found = detector.predict(photo)
    assert found.map.std() > 0
    # Whole, although the network of stage 1 has its encoder in another file.
    detector.save_pretrained(tmp_path)
    again = a2s.Detector.from_pretrained(tmp_path).predict(photo)
    assert (again.map == found.map).all()

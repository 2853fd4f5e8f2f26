"""Folders and repositories of the Hugging Face hub, without a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

import a2s
from a2s.errors import CheckpointError
from a2s.storage.tensors import read_metadata


@pytest.fixture
def photo(scenes) -> Path:
    return sorted(scenes.images.iterdir())[0]


def test_a_folder_holds_the_same_network(detector_file, photo, tmp_path) -> None:
    detector = a2s.Detector.load(detector_file)
    detector.save_pretrained(tmp_path / "folder")
    names = {path.name for path in (tmp_path / "folder").iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md"}
    config = json.loads((tmp_path / "folder" / "config.json").read_text("utf-8"))
    assert config == read_metadata(detector_file)
    assert "library_name: a2s" in (tmp_path / "folder" / "README.md").read_text("utf-8")
    again = a2s.Detector.from_pretrained(tmp_path / "folder")
    assert np.array_equal(again.predict(photo).map, detector.predict(photo).map)
    # The same bytes, so that a job of one goes on with the other.
    assert again.network.identity() == detector.network.identity()


def test_a_repository_is_pushed_and_fetched(detector_file, photo, tmp_path, monkeypatch) -> None:
    hub = tmp_path / "hub"

    def create_repo(self, repo_id: str, **_: object) -> huggingface_hub.RepoUrl:
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id: str, folder_path: Path, **_: object) -> str:
        shutil.copytree(folder_path, hub / repo_id)
        return f"commit of {repo_id}"

    def fetch(repo_id: str, filename: str, **_: object) -> str:
        return str(hub / repo_id / filename)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    # The mixin fetches config.json, a2s the network.
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda **a: fetch(**a))
    monkeypatch.setattr("a2s.api.detector.hf_hub_download", fetch)
    monkeypatch.chdir(tmp_path)
    detector = a2s.Detector.load(detector_file)
    assert detector.push_to_hub("somebody/salient") == "commit of somebody/salient"
    again = a2s.Detector.from_pretrained("somebody/salient")
    assert np.array_equal(again.predict(photo).map, detector.predict(photo).map)


def test_a_folder_without_a_network_is_named(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        a2s.Detector.from_pretrained(tmp_path)

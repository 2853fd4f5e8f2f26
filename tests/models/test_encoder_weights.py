from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from a2s.errors import WeightsError
from a2s.models.encoder_weights import fetch, load_encoder
from a2s.models.encoders import build_encoder
from a2s.models.published_weights import REGISTRY, PublishedWeights

State = dict[str, Tensor]


def encoder_state(name: str, variant: str = "torchvision") -> State:
    torch.manual_seed(3)
    return dict(build_encoder(name, variant=variant).state_dict())


def assert_loaded(path: Path, name: str, state: State) -> None:
    loaded = load_encoder(name, str(path)).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


@pytest.fixture(scope="module")
def resnet_state() -> State:
    return encoder_state("resnet50")


def test_moco_checkpoint_gives_its_query_encoder_only(tmp_path: Path, resnet_state: State) -> None:
    wrong = {
        f"module.encoder_k.{key}": torch.zeros_like(value)
        for key, value in resnet_state.items()
        if not key.startswith("layer")
    }
    held = {f"module.encoder_q.{k}": v for k, v in resnet_state.items()}
    for layer, shape in {"fc.0": (2048, 2048), "fc.2": (128, 2048)}.items():
        for side in ("q", "k"):
            held[f"module.encoder_{side}.{layer}.weight"] = torch.zeros(shape)
            held[f"module.encoder_{side}.{layer}.bias"] = torch.zeros(shape[0])
    held |= wrong | {"module.queue": torch.zeros(128, 64), "module.queue_ptr": torch.zeros(1)}
    path = tmp_path / "moco_v2_800ep_pretrain.pth.tar"
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": held}, path)
    assert_loaded(path, "resnet50", resnet_state)


def test_imagenet_checkpoint_loses_its_classifier(tmp_path: Path, resnet_state: State) -> None:
    path = tmp_path / "resnet50.pth"
    head = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    torch.save(resnet_state | head, path)
    assert_loaded(path, "resnet50", resnet_state)


def test_torchvision_mobilenet(tmp_path: Path) -> None:
    state = encoder_state("mobilenet_v2")
    head = {"classifier.1.weight": torch.zeros(1000, 1280), "classifier.1.bias": torch.zeros(1000)}
    path = tmp_path / "mobilenet_v2.pth"
    torch.save(state | head, path)
    assert_loaded(path, "mobilenet_v2", state)
    assert load_encoder("mobilenet_v2", str(path)).variant == "torchvision"


def test_bare_features_without_counters(tmp_path: Path) -> None:
    state = {
        key.removeprefix("features."): value.contiguous()
        for key, value in encoder_state("mobilenet_v2", "onnx_zoo").items()
        if not key.endswith("num_batches_tracked")
    }
    path = tmp_path / "features.safetensors"
    save_file(state, path)
    assert_loaded(path, "mobilenet_v2", {f"features.{k}": v for k, v in state.items()})
    assert load_encoder("mobilenet_v2", str(path)).variant == "onnx_zoo"


def test_the_real_encoder_recognises_more_than_noise(shared: Path) -> None:
    """Features of a photograph resemble those of its mirror image, not those of another."""
    from PIL import Image
    from torchvision.transforms.functional import normalize, pil_to_tensor

    encoder = load_encoder(
        "mobilenet_v2", str(shared / "encoders" / "mobilenet_v2_imagenet.safetensors")
    ).eval()
    assert encoder.spec() == {"name": "mobilenet_v2", "variant": "onnx_zoo"}
    photos = sorted((shared / "data" / "ecssd200" / "images").iterdir())[:6]
    images = [Image.open(p).convert("RGB").resize((224, 224)) for p in photos]
    batch = torch.stack([pil_to_tensor(image) for image in images]).float() / 255
    batch = normalize(batch, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        ours = torch.nn.functional.normalize(encoder(batch)[4].mean((2, 3)))
        mirrored = torch.nn.functional.normalize(encoder(batch.flip(3))[4].mean((2, 3)))
    similarity = ours @ mirrored.T
    assert similarity.diag().min() > 0.9
    assert torch.equal(similarity.argmax(1), torch.arange(6))
    assert (similarity - 2 * torch.eye(6)).max() < 0.8


@pytest.mark.parametrize("given_weights", [None, "none"])
def test_untrained_follows_the_seed(given_weights: str | None) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(load_encoder("mobilenet_v2", given_weights).features[0][0].weight)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_keys_that_do_not_fit_are_listed(tmp_path: Path, resnet_state: State) -> None:
    state = {k: v for k, v in resnet_state.items() if not k.startswith("layer4.2")}
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    state["head.weight"] = torch.zeros(1)
    path = tmp_path / "odd.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError) as caught:
        load_encoder("resnet50", str(path))
    text = str(caught.value)
    for part in (
        "odd.pth covers 249 of the 265 tensors of resnet50",
        "15 missing: layer4.2.conv1.weight, ",
        "… 5 more",
        "1 unexpected: head.weight",
        "conv1.weight [64, 3, 3, 3] instead of [64, 3, 7, 7]",
    ):
        assert part in text


def test_weights_of_another_network(shared: Path) -> None:
    with pytest.raises(WeightsError, match="covers 0 of the 265 tensors of resnet50"):
        load_encoder("resnet50", str(shared / "encoders" / "mobilenet_v2_imagenet.safetensors"))


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(WeightsError, match="resnet50/moco_v2_800ep, resnet50/imagenet"):
        load_encoder("resnet50", "resnet50/moco")
    with pytest.raises(WeightsError, match="not of resnet50"):
        load_encoder("resnet50", "mobilenet_v2/imagenet")


def test_every_registered_file_carries_its_origin() -> None:
    for name, source in REGISTRY.items():
        assert name.startswith(source.encoder + "/")
        assert source.url.startswith("https://")
        assert source.licence
        assert len(source.digest_prefix) == 8
        if source.algorithm == "sha256":
            assert source.file_name.endswith(f"-{source.digest_prefix}.pth")
    assert "CC-BY-NC" in REGISTRY["resnet50/moco_v2_800ep"].licence
    assert "MIT" in REGISTRY["resnet50/moco_v2_800ep"].licence


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder, its HTTP address, and the requested paths."""
    root = tmp_path / "www"
    root.mkdir()
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, directory=str(root), **kwargs)  # type: ignore[arg-type]

        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path == "/torn.pth":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"half")
                return
            super().do_GET()

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            yield root, f"http://127.0.0.1:{httpd.server_port}", asked
        finally:
            httpd.shutdown()
            thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("A2S_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def published(data: bytes, url: str, algorithm: str = "sha256") -> PublishedWeights:
    digest = hashlib.new(algorithm, data).hexdigest()
    return PublishedWeights(
        "mobilenet_v2", url, algorithm, digest[:8], "some licence", "some images"
    )


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_download_is_verified_and_kept(
    server: tuple[Path, str, list[str]],
    cache: Path,
    algorithm: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, address, asked = server
    state = encoder_state("mobilenet_v2")
    torch.save(state, root / "m.pth")
    source = published((root / "m.pth").read_bytes(), f"{address}/m.pth", algorithm)
    monkeypatch.setitem(REGISTRY, "mobilenet_v2/test", source)
    for _ in range(2):
        loaded = load_encoder("mobilenet_v2", "mobilenet_v2/test").state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in state.items())
        assert "some licence" in capsys.readouterr().err
    assert asked == ["/m.pth"]
    assert [p.name for p in cache.iterdir()] == ["m.pth"]


def test_wrong_bytes_are_not_cached(server: tuple[Path, str, list[str]], cache: Path) -> None:
    root, address, _ = server
    (root / "m.pth").write_bytes(b"other bytes")
    source = published(b"published bytes", f"{address}/m.pth")
    with pytest.raises(WeightsError, match=r"m\.pth is not the published file"):
        fetch("mobilenet_v2/test", source)
    assert list(cache.iterdir()) == []


def test_a_damaged_cache_is_refused(cache: Path) -> None:
    source = published(b"published bytes", "http://127.0.0.1:1/m.pth")
    cache.mkdir(parents=True)
    (cache / "m.pth").write_bytes(b"published byte")
    with pytest.raises(WeightsError, match=f"delete {cache}/m.pth"):
        fetch("mobilenet_v2/test", source)
    (cache / "m.pth").write_bytes(b"published bytes")
    assert fetch("mobilenet_v2/test", source) == cache / "m.pth"


@pytest.mark.parametrize("path", ["absent.pth", "torn.pth"])
def test_failed_downloads_leave_nothing(
    server: tuple[Path, str, list[str]], cache: Path, path: str
) -> None:
    _, address, _ = server
    with pytest.raises(WeightsError, match=r"404|torn\.pth is not the published|IncompleteRead"):
        fetch("mobilenet_v2/test", published(b"x", f"{address}/{path}"))
    assert list(cache.iterdir()) == []


def test_no_network_says_where_the_file_goes(cache: Path, free_port: int) -> None:
    source = replace(
        REGISTRY["resnet50/moco_v2_800ep"], url=f"http://127.0.0.1:{free_port}/moco.pth.tar"
    )
    with pytest.raises(WeightsError) as caught:
        fetch("resnet50/moco_v2_800ep", source)
    text = str(caught.value)
    assert text.startswith("weights: resnet50/moco_v2_800ep could not be downloaded (")
    assert f"Put the file at {cache}/moco.pth.tar or pass --encoder.weights PATH." in text

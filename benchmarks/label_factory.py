"""Throughput of every step from photographs to labels, and the cost of a million labels.

    python benchmarks/label_factory.py [--images DIR] [--model RUN] [--count 1000] [--rounds 3]

Measured in one run on the same images: shard; the activation network over batch sizes; CRF backends
per core; `a2s label` end to end with one process, two, and threads, start-up included; predict. Two
baseline loops alternate with `a2s label`. They label image by image with pydensecrf in one process:
`authors` like the authors' code (network and CRF at the image's own size, maps concatenated at
stride 2, all cores for the network), `plain` with this project's network and input size. The loops
label `--loop` evenly spaced images per round; everything else runs on all images. Without
`--images` the photographs are those of the reference material ($A2S_SHARED), or rendered scenes if
there is none. Without `--model` the network is untrained. Writes
`benchmarks/results/label_factory.json`.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from machine import PRICE, describe_machine
from PIL import Image
from safetensors.torch import save_file

from a2s.data import images
from a2s.data.index import Index
from a2s.data.synthetic import draw_scene
from a2s.data.transforms import normalise
from a2s.labels.crf.backends import crf_of
from a2s.labels.crf.energy import CrfParams, hard_energy
from a2s.labels.refine import probability, shrink_for_crf
from a2s.models.activation_net import ActivationNet
from a2s.models.blocks import upsample
from a2s.models.boundary import BOUNDARIES, decide
from a2s.models.detector import Detector
from a2s.models.encoder_weights import load_encoder
from a2s.models.inference import InferenceModel
from a2s.models.saved import SavedNetwork
from a2s.storage.files import write_json

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("A2S_SHARED", ROOT.parent / "shared"))
RESULT = ROOT / "benchmarks" / "results" / "label_factory.json"
PREDICTED = 200
BATCHES = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 4, 16, 64, 256)}


def folder_of_images(given: Path | None, count: int, into: Path) -> tuple[Path, str]:
    """Make a folder of links to `count` photographs, or of scenes if there are none."""
    into.mkdir()
    source = given or SHARED / "data" / "msra1000"
    found = sorted(path for path in source.rglob("*") if path.suffix in (".jpg", ".png"))[:count]
    for path in found:
        (into / path.name).symlink_to(path.resolve())
    if found:
        return into, f"{len(found)} photographs of {source.name}"
    for index in range(count):
        scene = draw_scene(seed=0, index=index, side_px=360)
        Image.fromarray(scene.image_HW3[:300]).save(into / f"{index:06d}.jpg", quality=90)
    return into, f"{count} rendered scenes"


def untrained(encoder: str, folder: Path) -> Path:
    """Save an untrained stage-1 model with this encoder."""
    torch.manual_seed(0)
    network = ActivationNet(load_encoder(encoder, "none"), fusion_stride=4)
    return save(network, folder / f"{encoder}.safetensors", 320)


def save(network: ActivationNet | Detector, path: Path, image_size: int) -> Path:
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    input_spec = {"image_size": str(image_size), "resize_filter": "bilinear"}
    save_file(tensors, path, {**network.spec(), **input_spec})
    return path


def a2s(*arguments: object) -> float:
    """Run a command and return its seconds, start-up included."""
    started = time.monotonic()
    command = [sys.executable, "-m", "a2s", *map(str, arguments)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    return time.monotonic() - started


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(-1)


def label_like_the_authors(network: ActivationNet, path: Path) -> np.ndarray:
    """Label at the image's own size, with features concatenated at stride 2 and then convolved."""
    image_HW3 = np.asarray(Image.open(path).convert("RGB"))
    image_B3HW = normalise(torch.tensor(image_HW3).permute(2, 0, 1)[None])
    height, width = image_HW3.shape[:2]
    blocks = network.heads[0]
    with torch.inference_mode():
        _, _, e3, e4, e5 = network.encoder(image_B3HW)
        features = (blocks.se3(e3), blocks.se4(e4), blocks.se5(e5))
        half = (-(-height // 2), -(-width // 2))
        joined = torch.cat([upsample(feature, half) for feature in features], dim=1)
        theta = decide(blocks.se0(joined), BOUNDARIES["adb"])[0, 0].numpy()
    return refined_alone(image_HW3, theta)


def label_plainly(network: ActivationNet, path: Path) -> np.ndarray:
    """Label with this project's network and input size, one image after the other."""
    image_HW3 = np.asarray(Image.open(path).convert("RGB"))
    small_SS3 = images.resize_rgb(image_HW3, height=320, width=320)
    return refined_alone(image_HW3, InferenceModel(network).maps(small_SS3[None])[0])


def refined_alone(image_HW3: np.ndarray, theta_hw: np.ndarray) -> np.ndarray:
    p_HW = probability(theta_hw, height=image_HW3.shape[0], width=image_HW3.shape[1])
    params = CrfParams()
    mask_HW = crf_of("pydensecrf")(image_HW3, hard_energy(p_HW, params), params)
    return cv2.medianBlur(mask_HW.astype(np.uint8), 7) * 255


def timed_loop(
    label: Callable[[Path], np.ndarray], paths: list[Path], out: Path
) -> tuple[float, float]:
    """Wall and CPU seconds of labelling images and writing PNGs, one by one."""
    wall, cpu = time.monotonic(), time.process_time()
    for path in paths:
        Image.fromarray(label(path)).save(out / f"{path.stem}.png")
    return time.monotonic() - wall, time.process_time() - cpu


def activation_rates(network: ActivationNet, device: str) -> dict[str, float]:
    """Images/s by batch size; on a CPU with one core."""
    rates = {}
    network = network.to(device)
    with one_thread():
        for batch in BATCHES[device]:
            pixels = np.random.default_rng(0).integers(0, 256, (batch, 320, 320, 3), np.uint8)
            model = InferenceModel(network, torch.device(device), batch)
            model.maps(pixels)
            repeats = max(1, (24 if device == "cpu" else 512) // batch)
            started = time.monotonic()
            for _ in range(repeats):
                model.maps(pixels)
            rates[str(batch)] = round(repeats * batch / (time.monotonic() - started), 2)
    network.to("cpu")
    return rates


def crf_rates(network: ActivationNet, paths: list[Path]) -> dict[str, float]:
    """Images/s per core of both CPU backends, alternating per image, at the image's own size."""
    params, seconds = CrfParams(), {"numba": 0.0, "pydensecrf": 0.0}
    with one_thread():
        for number, path in enumerate(paths):
            image_HW3 = shrink_for_crf(np.asarray(Image.open(path).convert("RGB")), max_side=640)
            small_SS3 = images.resize_rgb(image_HW3, height=320, width=320)
            theta = InferenceModel(network).maps(small_SS3[None])[0]
            p_HW = probability(theta, height=image_HW3.shape[0], width=image_HW3.shape[1])
            energy = hard_energy(p_HW, params)
            for backend in seconds:
                crf = crf_of(backend)  # type: ignore[arg-type]
                if number == 0:
                    crf(image_HW3, energy, params)
                started = time.thread_time()
                crf(image_HW3, energy, params)
                seconds[backend] += time.thread_time() - started
    return {backend: round(len(paths) / sec, 2) for backend, sec in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--encoder", default="mobilenet_v2")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="a2s-factory-") as name:
        work = Path(name)
        folder, source = folder_of_images(arguments.images, arguments.count, work / "images")
        paths = sorted(folder.iterdir())
        count = len(paths)
        model = arguments.model or untrained(arguments.encoder, work)
        saved = SavedNetwork.find_for_labels(model)
        network = saved.load()
        assert saved.image_size == 320, "the loops assume 320 px"

        rates: dict[str, float] = {}
        for workers in (1, cores):
            sec = a2s("shard", folder, "--out", work / f"data{workers}", "--workers", workers)
            rates[f"shard, {workers} processes"] = count / sec
        data = work / f"data{cores}"
        assert len(Index.load(data)) == count
        activation = {"cpu, 1 core": activation_rates(network, "cpu")}
        if torch.cuda.is_available():
            activation["gpu"] = activation_rates(network, "cuda")
        crf = crf_rates(network, paths[:: max(1, count // 24)])

        seconds: dict[str, list[float]] = {}
        loop_cpu: dict[str, list[float]] = {"authors": [], "plain": []}
        each = paths[:: max(1, count // arguments.loop)]
        out = work / "loop"
        out.mkdir()
        for round_number in range(arguments.rounds):
            for loop, label in (("authors", label_like_the_authors), ("plain", label_plainly)):
                wall, cpu = timed_loop(functools.partial(label, network), each, out)
                seconds.setdefault(loop, []).append(wall / len(each))
                loop_cpu[loop].append(cpu / len(each))
            ways = {"threads": 0, f"{cores} processes": cores}
            if round_number == 0:
                ways["1 process"] = 1
            for way, workers in ways.items():
                sec = a2s(
                    *("label", "--model", model, "--data", data, "--workers", workers),
                    *("--out", work / f"labels-{round_number}-{workers}"),
                )
                seconds.setdefault(f"label, {way}", []).append(sec / count)
        detector = Detector(network.encoder)
        save(detector, work / "detector.safetensors", 320)
        few, _ = folder_of_images(folder, min(count, PREDICTED), work / "few")
        sec = a2s(
            *("predict", few, "--model", work / "detector.safetensors"),
            *("--out", work / "preds", "--workers", cores),
        )
        rates[f"predict, {cores} processes"] = min(count, PREDICTED) / sec

    best = {way: min(values) for way, values in seconds.items()}
    rates |= {way: 1 / sec for way, sec in best.items()}
    # The loops are charged for the CPU time that they use, the command for all cores.
    core_sec = {loop: min(values) for loop, values in loop_cpu.items()}
    core_sec |= {way: sec * cores for way, sec in best.items() if way.startswith("label")}
    core_sec["label, 1 process"] = best["label, 1 process"]
    million = {
        way: {
            "core_hours": round(sec * 1e6 / 3600, 2),
            "dollars": round(sec * 1e6 / 3600 * PRICE["core_hour"], 2),
        }
        for way, sec in core_sec.items()
    }
    fastest = min(best[way] for way in best if way.startswith("label"))
    # The result contains no path of this machine.
    paths_given = {str(arguments.model): "RUN", str(arguments.images): "DIR"}
    shown = [paths_given.get(word, word) for word in sys.argv[1:]]
    result = {
        **describe_machine(),
        "command": " ".join(["python benchmarks/label_factory.py", *shown]),
        "source": source,
        "model": "trained" if arguments.model else f"untrained {arguments.encoder}",
        "images_per_sec": {name: round(rate, 2) for name, rate in rates.items()},
        "activation_images_per_sec_by_batch": activation,
        "crf_images_per_sec_per_core": crf,
        "seconds_per_image_by_round": {
            way: [round(value, 4) for value in values] for way, values in seconds.items()
        },
        "label_over_authors_loop": round(best["authors"] / fastest, 2),
        "label_over_plain_loop": round(best["plain"] / fastest, 2),
        "processes_1_to_2": round(best["label, 1 process"] / best[f"label, {cores} processes"], 2),
        "per_million_images": million,
        "assumed_price_dollars": PRICE,
    }
    write_json(arguments.out, result)
    print(result)


if __name__ == "__main__":
    main()

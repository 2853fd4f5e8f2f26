"""Extrapolation and bottlenecks: numbers that can be checked by hand."""

from __future__ import annotations

import dataclasses

import pytest

from a2s.labels.making.forecast import Sample, forecast
from a2s.labels.making.forecast import describe as describe_forecast
from a2s.parallel.bottleneck import WorkerGroup, bottleneck, describe, record

CPU = Sample(
    cpu_sec_N=[0.02, 0.04, 0.03, 0.03],
    stage_sec={"decode": 0.005, "network": 0.015, "refine": 0.01},
    device_sec=0.0,
    read_bytes=2**20,
    label_bytes=4096,
    workers=4,
    pool_images_per_sec=100.0,
    start_sec=10.0,
)


def test_a_million_images_on_cpus() -> None:
    found = forecast(CPU, 1_000_000)
    assert found.core_hours == pytest.approx(0.03 * 1e6 / 3600)
    assert found.gpu_hours == 0
    assert found.read_gib == pytest.approx(1e6 / 1024)
    assert found.write_gib == pytest.approx(1e6 * 4096 / 2**30)
    assert found.wall_hours == pytest.approx((10 + 1e4) / 3600)
    assert found.efficiency == pytest.approx(100 / (4 / 0.03))
    assert found.best_pool == 4
    # Twice the standard error of four times: 2 * 0.00816 / 2.
    assert found.core_hours_error / found.core_hours == pytest.approx(0.00816 / 0.03, rel=1e-2)


def test_a_gpu_wants_as_many_workers_as_keep_it_busy() -> None:
    sample = dataclasses.replace(CPU, device_sec=0.004, pool_images_per_sec=120.0)
    found = forecast(sample, 1000)
    assert found.best_pool == 8
    assert found.gpu_hours == pytest.approx(4 / 3600)
    lines = describe_forecast(sample, found, device="GPU")
    assert "best pool  8 CPU workers for each GPU: with fewer it waits" in lines


def test_the_mix_is_what_an_hour_and_a_day_need() -> None:
    lines = describe_forecast(CPU, forecast(CPU, 1_000_000), device="CPU")
    # 8.33 core-hours at 75 % efficiency.
    assert "mix        12 such cores for 1.0 h" in lines
    assert "mix        1 such cores for 24.0 h" in lines
    assert lines[2].split() == ["decode", "5.00", "17%"]


def test_waiting_for_cores_is_no_core_time() -> None:
    # Other work had half of the cores, so the pool managed half.
    sample = dataclasses.replace(CPU, busy=0.5, pool_images_per_sec=50.0, network="resnet50")
    found, alone = forecast(sample, 1_000_000), forecast(CPU, 1_000_000)
    assert found.core_hours == alone.core_hours
    assert found.efficiency == pytest.approx(alone.efficiency)
    assert found.wall_hours > 1.9 * alone.wall_hours
    lines = describe_forecast(sample, found, device="CPU")
    assert lines[0] == "network    resnet50"
    assert "mix        12 such cores for 1.0 h" in lines
    (waiting,) = (line for line in lines if line.startswith("waiting"))
    assert "50% of the workers' time" in waiting
    assert not [line for line in describe_forecast(CPU, alone, device="CPU") if "waiting" in line]


def test_the_busiest_side_and_its_longest_stage_is_the_bottleneck() -> None:
    gpu = WorkerGroup("GPU processes", 1, {"network": 3.0}, 10.0)
    cpu = WorkerGroup("CPU workers", 4, {"decode": 2.0, "refine": 34.0}, 40.0)
    assert bottleneck([gpu, cpu]) == "refine (94% of the work of the CPU workers)"
    assert gpu.waiting_sec == pytest.approx(7)
    assert cpu.waiting_sec == pytest.approx(1)
    lines = describe(100, 10.0, [gpu, cpu])
    assert lines[0] == "100 images in 10.0 s, 10.00 images/s"
    assert lines[1] == "1 GPU processes: network 33.3 images/s (each alone); busy 30%, waited 7.0 s"
    assert record(100, 10.0, [gpu, cpu])["CPU workers"] == {
        "processes": 4,
        "busy_share": 0.9,
        "waiting_sec": 1.0,
        "stage_sec": {"decode": 2.0, "refine": 34.0},
    }


def test_where_all_wait_nobody_is_blamed() -> None:
    idle = WorkerGroup("CPU workers", 2, {"refine": 1.0}, 20.0)
    assert bottleneck([idle]).startswith("none, all wait most of the time")

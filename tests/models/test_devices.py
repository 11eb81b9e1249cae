import re
import sys
from pathlib import Path

import pytest
import torch

from models import devices
from models.devices import likely_gpus, may_have_gpu, resolve_device
from models.engines import EngineError


@pytest.mark.parametrize(
    ("device", "worker", "gpus", "expected"),
    [
        ("cuda", 0, 2, "cuda:0"),
        ("cuda", 1, 2, "cuda:1"),
        ("cuda", 2, 2, "cuda:0"),
        ("cuda:1", 4, 2, "cuda:1"),
        ("cpu", 1, 2, "cpu"),
    ],
)
def test_each_worker_has_a_gpu(
    device: str, worker: int, gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert resolve_device(device, worker) == expected


def test_without_a_choice_it_is_a_gpu_where_there_is_one() -> None:
    assert resolve_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("device", "gpus", "told"),
    [
        ("cuda", 0, "there is no cuda:0: torch finds 0 GPUs; use the device auto"),
        ("cuda:2", 2, "there is no cuda:2: torch finds 2 GPUs; use the device auto"),
        ("gpu", 2, "there is no device 'gpu'; known are auto, cpu, cuda, cuda:1"),
    ],
)
def test_what_is_not_there_is_told(device: str, gpus: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(EngineError, match=f"^{re.escape(told)}"):
        resolve_device(device)


@pytest.mark.parametrize("made", [True, False])
def test_a_driver_tells_of_a_gpu(made: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = tmp_path / "nvidiactl"
    monkeypatch.setattr(devices, "_GPU_NODES", (str(node),))
    monkeypatch.setattr(sys, "platform", "linux")
    if made:
        node.touch()
    assert may_have_gpu() is made
    if not made:
        assert resolve_device("auto") == "cpu"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert may_have_gpu()


@pytest.mark.parametrize(
    ("nodes", "gpus"),
    [("", 0), ("nvidiactl", 1), ("nvidiactl nvidia0", 1), ("nvidiactl nvidia0 nvidia31", 2)],
)
def test_gpus_are_counted(nodes: str, gpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_GPU_NODES", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setattr(devices, "_DEVICES", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    for node in nodes.split():
        (tmp_path / node).touch()
    assert likely_gpus() == gpus

import sys
from pathlib import Path

import pytest
import torch

from models import devices
from models.devices import may_have_gpu, resolve_device


@pytest.mark.parametrize(
    ("device", "worker", "gpus", "expected"),
    [
        ("cuda", 0, 2, "cuda:0"),
        ("cuda", 1, 2, "cuda:1"),
        ("cuda", 2, 2, "cuda:0"),
        ("cuda", 1, 0, "cuda:0"),
        ("cuda:1", 4, 2, "cuda:1"),
        ("cpu", 1, 2, "cpu"),
    ],
)
def test_each_worker_has_a_gpu(
    device: str, worker: int, gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert resolve_device(device, worker) == expected


def test_resolve_device() -> None:
    assert resolve_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cuda:1") == "cuda:1"


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

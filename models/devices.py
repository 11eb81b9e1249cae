"""Which device models run on."""

import importlib.util
import sys
from pathlib import Path

# What NVIDIA's and AMD's drivers make, and WSL.
_GPU_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def may_have_gpu() -> bool:
    """Quickly, without torch: where no driver has made a device, as far as that can be told, there is no GPU."""
    return sys.platform != "linux" or any(Path(node).exists() for node in _GPU_NODES)


def resolve_device(device: str, worker: int = 0) -> str:
    """`auto` is a GPU where there is one, else the CPU; of several GPUs each worker, counted from 0, gets one."""
    if device not in ("auto", "cuda"):
        return device
    # On a machine without one, a server that finds its exported graphs need not import torch to be told so.
    if device == "auto" and not may_have_gpu():
        return "cpu"
    if importlib.util.find_spec("torch") is None:
        return "cpu" if device == "auto" else device
    import torch

    if device == "auto" and not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{worker % max(1, torch.cuda.device_count())}"

"""Which device models run on."""

import importlib.util
import sys
from pathlib import Path

# What NVIDIA's and AMD's drivers make, and WSL.
_GPU_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_DEVICES, _EACH_GPU = "/dev", "nvidia[0-9]*"


def may_have_gpu() -> bool:
    """Quickly, without torch: where no driver has made a device, as far as that can be told, there is no GPU."""
    return sys.platform != "linux" or any(Path(node).exists() for node in _GPU_NODES)


def likely_gpus() -> int:
    """How many, as quickly: one for each that has a device of its own, and one where only the driver can be told."""
    return len(list(Path(_DEVICES).glob(_EACH_GPU))) or int(may_have_gpu())


def resolve_device(device: str, worker: int = 0) -> str:
    """`auto` is a GPU where there is one, else the CPU; of several GPUs each worker, counted from 0, gets one.

    Raises `models.engines.EngineError` where there is no such device, if torch is there to tell.
    """
    # On a machine without a GPU, a server that finds its exported graphs need not import torch to be told so.
    if device == "cpu" or (device == "auto" and not may_have_gpu()):
        return "cpu"
    if importlib.util.find_spec("torch") is None:
        return "cpu" if device == "auto" else device
    import torch

    if device == "auto" and not torch.cuda.is_available():
        return "cpu"
    gpus = torch.cuda.device_count()
    if device in ("auto", "cuda"):
        device = f"cuda:{worker % max(1, gpus)}"
    _check(device, gpus)
    return device


def _check(device: str, gpus: int) -> None:
    import torch

    from models.engines import EngineError

    try:
        known = torch.device(device)
    except RuntimeError as error:
        raise EngineError(f"there is no device {device!r}; known are auto, cpu, cuda, cuda:1, ...") from error
    if known.type == "cuda" and (known.index or 0) >= gpus:
        raise EngineError(f"there is no {device}: torch finds {gpus} GPUs; use the device auto, or look at the driver")

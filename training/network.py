"""What is trained: a head on frozen features, or a head together with some of its backbone."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models import group_parameters
from torch import Tensor, nn

from models.backbones import Backbone, example_pixels
from models.engines import Engine, Graph, make_engine
from models.fcos import Body, FcosHead, UnfitBackbone
from models.normalise import Normalise


def channels(backbone: Backbone, canvas_size: int) -> tuple[int, int, int]:
    """Of the features that a head gets. Raises `UnfitBackbone`."""
    return Body(backbone.module, Normalise(backbone.preprocessing), canvas_size).channels


class Features:
    """The frozen backbone: computed by the engine that serves it, since nothing flows back into it."""

    def __init__(
        self, backbone: Backbone, canvas_sizes: Sequence[int], view_size: int, device: str, cache: Path
    ) -> None:
        self.device = device
        self.engines: dict[int, Engine] = {}
        for size in canvas_sizes:
            body = Body(backbone.module, Normalise(backbone.preprocessing), size)
            graph = Graph(
                kind=f"features|{backbone.signature}|{size}|{view_size}",
                weights=backbone.sha256,
                build=lambda body=body: body,  # type: ignore[misc]
                examples=lambda: (example_pixels(view_size),),
                inputs=("pixels",),
                outputs=("stride8", "stride16", "stride32"),
            )
            self.engines[size] = make_engine(graph, "auto", device, cache, torch.get_num_threads())

    def __call__(self, pixels: Tensor, canvas_size: int) -> list[Tensor]:
        """uint8 (N, S, S, 3) -> three maps of the canvas on the training device."""
        levels = self.engines[canvas_size].run(pixels.cpu().numpy())
        return [torch.from_numpy(level).to(self.device, memory_format=torch.channels_last) for level in levels]


class Tuned(nn.Module):
    """A head with the backbone below it, of which only the last stages are trained, or a patch, or both.

    A patch (Mudrakarta et al. 2019, arXiv 1810.10703) is what makes another network of a backbone with few numbers: the
    scales and offsets of its normalisations, and its depthwise convolutions. Normalisations keep their statistics: a
    batch of canvases is too small and too odd to tell them.
    """

    def __init__(
        self, head: FcosHead, backbone: Backbone, canvas_sizes: Sequence[int], stages: int, patch: bool = False
    ) -> None:
        super().__init__()
        self.head = head
        self.classifier = copy.deepcopy(backbone.module)
        bodies = [Body(self.classifier, Normalise(backbone.preprocessing), size) for size in canvas_sizes]
        if bodies[0].taps.classifier is not self.classifier:
            # Its tensors change their shapes with the size.
            raise UnfitBackbone("a backbone that must be told its input size cannot be fine-tuned")
        self.bodies = nn.ModuleDict({str(body.canvas_size): body for body in bodies})
        chosen = _trained(bodies[0], stages, patch)
        for name, parameter in self.classifier.named_parameters():
            parameter.requires_grad_(name in chosen)

    def train(self, mode: bool = True) -> "Tuned":
        super().train(mode)
        self.bodies.eval()
        return self

    def forward(self, pixels: Tensor, canvas_size: int) -> tuple[Tensor, Tensor]:
        """uint8 (N, S, S, 3) -> as `FcosHead.forward`."""
        answer: tuple[Tensor, Tensor] = self.head(self.bodies[str(canvas_size)](pixels))
        return answer

    def trained(self) -> dict[str, Tensor]:
        """The backbone's tensors that are trained, by its own names."""
        named = self.classifier.named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}


def _trained(body: Body, stages: int, patch: bool) -> set[str]:
    """Names of the parameters of the last `stages` groups, as timm groups them, and of the patch, of those that the
    features need."""
    classifier: Any = body.taps.classifier
    body.requires_grad_(True)
    pixels = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    torch.autograd.backward([level.square().mean() for level in body(pixels)])
    used = [name for name, parameter in classifier.named_parameters() if parameter.grad is not None]
    classifier.zero_grad()
    groups = group_parameters(classifier, classifier.group_matcher(coarse=True), reverse=True)
    last = sorted({groups[name] for name in used})[-stages:] if stages else []
    patched = _patch(classifier) if patch else set()
    return {name for name in used if groups[name] in last or name in patched}


def _patch(classifier: nn.Module) -> set[str]:
    """Names of all vectors, which scale or shift channels, and of the depthwise convolutions."""
    convolutions = {
        f"{name}.weight"
        for name, module in classifier.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
    }
    return convolutions | {name for name, parameter in classifier.named_parameters() if parameter.ndim == 1}


def scales(canvas_size: int, several: bool) -> tuple[int, ...]:
    """Sides of the canvases that are shown: three quarters, the whole and five quarters of the head's own."""
    if not several:
        return (canvas_size,)
    return tuple(sorted({max(32, round(canvas_size * share / 32) * 32) for share in (0.75, 1, 1.25)}))

"""What a GPU computes in place of a module: the same, in fewer and cheaper kernels.

The batch normalisations are folded into the convolutions before them, and a convolution of 1x1 is a product of
matrices, which cuBLAS does sooner than cuDNN: that takes seconds to load its kernels, anew for every batch size.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.normalise import Normalise
from models.recorded import outputs_of

# How far the answers may be from the module's, of numbers of about 1 and more.
_RELATIVE, _ABSOLUTE = 1e-3, 1e-3


class Pointwise(nn.Module):
    """A convolution of 1x1, without stride or groups: (N, C, H, W) contiguous maps -> (N, D, H, W) contiguous maps."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        bias = convolution.bias
        self.weight = nn.Parameter(convolution.weight.detach().flatten(1), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach()[:, None], requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        rows = features.flatten(2)
        if self.bias is None:
            mixed = self.weight @ rows
        else:
            mixed = torch.baddbmm(self.bias.expand(len(rows), -1, -1), self.weight.expand(len(rows), -1, -1), rows)
        return mixed.reshape(len(mixed), -1, *features.shape[2:])


def folded(module: nn.Module, examples: Sequence[NDArray[Any]]) -> nn.Module:
    """A copy of a module in evaluation mode that answers as it does, but for rounding.

    The module itself where there is nothing to change, and where a copy answers the examples otherwise.
    """
    if not any(_is_fixed(one) or _is_pointwise(one) for one in module.modules()):
        return module
    with _in_one_thread():
        return _folded(module, examples)


@contextmanager
def _in_one_thread() -> Iterator[None]:
    """As many as cores, in each of several workers that load at once, wait for each other ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _folded(module: nn.Module, examples: Sequence[NDArray[Any]]) -> nn.Module:
    inputs = [torch.from_numpy(array) for array in examples]
    # A part of it may be on a GPU already, for another model on the same backbone.
    changed = copy.deepcopy(module).cpu()
    pairs, before = _pairs(changed, inputs)
    for norm, convolution in pairs.items():
        _fold(changed, norm, convolution)
    for name, one in list(changed.named_modules()):
        if _is_pointwise(one):
            changed.set_submodule(name, Pointwise(one))
        elif isinstance(one, Normalise):
            # Whatever comes after it keeps the order.
            one.register_forward_hook(_contiguous)
    with torch.inference_mode():
        after = outputs_of(changed, inputs)
    agree = all(
        torch.allclose(found, wanted, rtol=_RELATIVE, atol=_ABSOLUTE)
        for found, wanted in zip(after, before, strict=True)
    )
    return changed if agree else module


def _pairs(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[dict[str, str], Sequence[Tensor]]:
    """By a batch normalisation's name that of the convolution whose answer it alone sees; and the module's answers."""
    names = {one: name for name, one in module.named_modules()}
    calls, found = Counter[nn.Module](), dict[nn.Module, nn.Module]()
    # They are kept for as long as they are told apart by their ids.
    answers = dict[int, tuple[Tensor, nn.Module]]()

    def after(convolution: nn.Module, _: Any, answer: Tensor) -> None:
        calls[convolution] += 1
        answers[id(answer)] = answer, convolution

    def before(norm: nn.Module, asked: tuple[Tensor, ...]) -> None:
        calls[norm] += 1
        if id(asked[0]) in answers:
            found[norm] = answers[id(asked[0])][1]

    hooks = [one.register_forward_hook(after) for one in names if isinstance(one, nn.Conv2d)]
    hooks += [one.register_forward_pre_hook(before) for one in names if _is_fixed(one)]
    try:
        with torch.inference_mode():
            outputs = outputs_of(module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {names[norm]: names[one] for norm, one in found.items() if calls[norm] == calls[one] == 1}, outputs


def _is_fixed(module: nn.Module) -> bool:
    """Whether it normalises by numbers that it has learnt, and not by those of the batch."""
    return isinstance(module, nn.BatchNorm2d) and module.running_mean is not None


def _fold(module: nn.Module, norm: str, convolution: str) -> None:
    normalising: Any = module.get_submodule(norm)
    convolving: Any = module.get_submodule(convolution)
    module.set_submodule(convolution, fuse_conv_bn_eval(convolving, normalising))
    # timm's know their activation.
    module.set_submodule(norm, getattr(normalising, "act", nn.Identity()))


def _is_pointwise(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    # A subclass may do something else, such as padding.
    if type(module) is not nn.Conv2d or module.groups > 1:
        return False
    return module.kernel_size == module.stride == (1, 1) and module.padding in ((0, 0), "valid", "same")


def _contiguous(_: nn.Module, __: Any, pixels: Tensor) -> Tensor:
    return pixels.contiguous()

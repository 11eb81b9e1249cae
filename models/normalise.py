"""The first layer of every graph: uint8 pixels to what the backbone was trained on."""

import torch
from torch import Tensor, nn

from models.preprocessing import Preprocessing


class Normalise(nn.Module):
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 with the backbone's mean and standard deviation."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        self.register_buffer("scale", (1 / (255 * std)).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        scaled = pixels.permute(0, 3, 1, 2).to(torch.float32)
        return scaled * self.get_buffer("scale") + self.get_buffer("shift")

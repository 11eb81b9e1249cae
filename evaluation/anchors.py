"""Published accuracies on ImageNet-A to hold a result against. None of them was measured here."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Source:
    name: str
    text: str
    url: str


@dataclass(frozen=True)
class Anchor:
    """Top-1 in percent, as published: `imagenet_a` over its 200 classes, `imagenet` over 1000; "" where not told."""

    model: str
    input: str
    imagenet_a: str
    imagenet: str
    note: str
    source: Source


SOURCES = {
    "timm": Source(
        "timm's results",
        "results-imagenet-a.csv and results-imagenet.csv of timm (huggingface/pytorch-image-models)",
        "https://github.com/huggingface/pytorch-image-models/tree/main/results",
    ),
    "paper": Source(
        "arXiv:2102.11731",
        "Li, Li, Dai, Shi, Zhu, Hu: Rethinking Natural Adversarial Examples for Classification Models",
        "https://arxiv.org/abs/2102.11731",
    ),
    "zoom": Source(
        "ZoomIsAllYouNeed", "the results of taesiri/ZoomIsAllYouNeed", "https://github.com/taesiri/ZoomIsAllYouNeed"
    ),
}


@cache
def anchors() -> tuple[Anchor, ...]:
    text = (resources.files("evaluation") / "anchors.csv").read_text("utf-8")
    return tuple(
        Anchor(row["model"], row["input"], row["imagenet_a"], row["imagenet"], row["note"], SOURCES[row["source"]])
        for row in csv.DictReader(text.splitlines())
    )

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm

from models.backbones import BUNDLED, bundled_backbone
from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS, Catalog
from models.heads import load_head
from models.preprocessing import Preprocessing
from models.served import Classifier, Loading, NotYetLoaded, Served, UnservedChoice, load
from tests.conftest import LITE0, fcos

_LIGHT_START = """
import sys
from dataclasses import replace
from pathlib import Path
from models.catalog import Catalog, DEFAULT_DETECTORS
from models.served import Loading, load

served = load(Catalog(), [{backbone!r}], DEFAULT_DETECTORS, Loading(Path({cache!r}), device="cpu"))
described = [served.classifier(None).model, served.detector(None).model]
assert all(model.parameters > 1_000_000 and len(model.sha256) == 64 for model in described)
print(",".join(name for name in ("torch", "timm", "torchvision") if name in sys.modules))
"""


@pytest.mark.parametrize("name", BUNDLED)
def test_what_is_written_down_of_a_bundled_backbone_is_what_timm_says(name: str) -> None:
    model: Any = timm.create_model(name.split(".")[0], pretrained=False)
    assert BUNDLED[name].preprocessing == Preprocessing.from_timm(model.pretrained_cfg)
    assert bundled_backbone(name).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_head_s_parameters_are_counted_without_torch_as_with_it() -> None:
    detector = fcos(Catalog().detector(DEFAULT_DETECTORS[0]))
    learned = sum(parameter.numel() for parameter in load_head(detector.head).parameters())
    assert detector.parameters == detector.backbone.parameters + learned


def test_a_start_that_finds_its_exports_imports_no_torch(cache_dir: Path) -> None:
    load(Catalog(), [LITE0], DEFAULT_DETECTORS, Loading(cache_dir))
    script = _LIGHT_START.format(backbone=LITE0, cache=str(cache_dir))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_first_is_the_default(served: Served) -> None:
    assert served.classifier(None) is served.classifier(LITE0)
    assert served.detector(None) is served.detector("fcos_random")
    assert set(served.load_seconds) == {LITE0, "fcos_random"}


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda served: served.classifier("vgg16"), f"backbone 'vgg16' is not served; served are: {LITE0}"),
        (lambda served: served.detector("yolo"), "detector 'yolo' is not served; served are: fcos_random"),
        (lambda served: served.classifier(None).space("coco"), "imagenet-1k, imagenet-a, tiny-imagenet"),
    ],
)
def test_what_is_not_served(choose: Any, message: str, served: Served) -> None:
    with pytest.raises(UnservedChoice, match=message.replace(".", r"\.")):
        choose(served)


def test_what_is_awaited_is_told_apart_until_it_is_added(served: Served, catalog: Catalog) -> None:
    backbone = catalog.backbone(DEFAULT_BACKBONES[1])
    both = replace(served, awaited={backbone.name: backbone})
    with pytest.raises(NotYetLoaded, match="still being loaded"):
        both.classifier(backbone.name)
    with pytest.raises(UnservedChoice, match=r"^detector .* is not served"):
        both.detector(backbone.name)
    loaded = Classifier(backbone, served.classifier(None).engine)
    both.add(Served({backbone.name: loaded}, {}, {backbone.name: 1.0}))
    assert both.classifier(backbone.name) is loaded
    assert both.classifier(None) is served.classifier(None)
    assert both.awaited == {}
    assert set(both.load_seconds) == {*served.load_seconds, backbone.name}


def test_logits_are_of_the_backbone_s_own_space(served: Served) -> None:
    logits = served.classifier(None).logits(np.zeros((3, 224, 224, 3), np.uint8))
    assert logits.shape == (3, 1000)
    assert logits.dtype == np.float32

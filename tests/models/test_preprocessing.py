from typing import Any

import pytest
import timm
from timm.data import resolve_data_config

from models.preprocessing import Preprocessing

IMAGENET = Preprocessing(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875, "bicubic")
CONFIG = {"input_size": (3, 224, 224), "mean": IMAGENET.mean, "std": IMAGENET.std}


def test_all_classifiers_of_timm_are_understood_as_timm_does() -> None:
    wrong = []
    for name in timm.list_pretrained():
        config = timm.models.get_pretrained_cfg(name)
        if config.num_classes != 1000:
            continue
        wanted = resolve_data_config({}, pretrained_cfg=config.to_dict())
        found = Preprocessing.from_timm(config.to_dict())
        if {**vars(found), "input_size": (3, found.input_size, found.input_size)} != wanted:
            wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize(
    "config",
    [CONFIG, {**CONFIG, "crop_pct": 0.9}, {**CONFIG, "interpolation": "bilinear"}, {**CONFIG, "crop_mode": "squash"}],
    ids=lambda config: ",".join(sorted(set(config) - set(CONFIG))) or "bare",
)
def test_what_a_config_leaves_out_is_what_timm_takes(config: dict[str, Any]) -> None:
    wanted = resolve_data_config({}, pretrained_cfg=config)
    found = Preprocessing.from_timm(config)
    assert {name: getattr(found, name) for name in wanted if name != "input_size"} == {
        name: value for name, value in wanted.items() if name != "input_size"
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": (3, 224, 256)}, "square RGB"),
        ({"input_size": (1, 224, 224)}, "square RGB"),
        ({"crop_mode": "border"}, "crop_mode must be one of center, squash"),
        ({"interpolation": "random"}, "interpolation must be one of"),
        ({"mean": (0.5,)}, "mean must be three numbers"),
    ],
)
def test_what_the_views_cannot_do_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_timm({**CONFIG, **changes})


@pytest.mark.parametrize(
    ("size", "crop_pct", "expected"), [(224, 0.875, 256), (240, 0.882, 272), (260, 0.89, 292), (224, 1.0, 224)]
)
def test_scale_size(size: int, crop_pct: float, expected: int) -> None:
    assert IMAGENET.overridden({"input_size": size, "crop_pct": crop_pct}).scale_size == expected


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({}, "input_size", 224),
        ({"input_size": 320}, "input_size", 320),
        ({"input_size": [3, 320, 320]}, "input_size", 320),
        ({"mean": [0.5, 0.5, 0.5]}, "mean", (0.5, 0.5, 0.5)),
        ({"std": [1, 1, 1]}, "std", (1.0, 1.0, 1.0)),
        ({"crop_pct": 1}, "crop_pct", 1.0),
        ({"interpolation": "lanczos"}, "interpolation", "lanczos"),
    ],
)
def test_an_operator_overrides_one_field_and_no_other(changes: dict[str, Any], field: str, expected: object) -> None:
    found = IMAGENET.overridden(changes)
    assert vars(found) == {**vars(IMAGENET), field: expected}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 0.9}, "unknown preprocessing key 'crop'"),
        ({"crop_mode": "squash"}, "unknown preprocessing key 'crop_mode'"),
        ({"input_size": [3, 224, 256]}, "input_size must be"),
        ({"input_size": [1, 224, 224]}, "input_size must be"),
        ({"input_size": 0}, "input_size must be"),
        ({"input_size": -224}, "input_size must be"),
        ({"input_size": []}, "input_size must be"),
        ({"crop_pct": 0}, "crop_pct must be"),
        ({"crop_pct": float("nan")}, "crop_pct must be"),
        ({"mean": [0.5, 0.5]}, "mean must be three numbers"),
        ({"mean": "abc"}, "mean must be three numbers"),
        ({"std": [0.2, 0.0, 0.2]}, "std must be"),
        ({"interpolation": "cubic"}, "interpolation must be one of"),
    ],
)
def test_a_wrong_override_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IMAGENET.overridden(changes)


def test_the_signature_tells_graphs_apart_and_nothing_else() -> None:
    other: list[dict[str, Any]] = [{"input_size": 256}, {"mean": (0, 0, 0)}, {"std": (1, 1, 1)}]
    assert len({IMAGENET.overridden(changes).signature for changes in [{}, *other]}) == 4
    assert IMAGENET.overridden({"crop_pct": 1, "interpolation": "box"}).signature == IMAGENET.signature

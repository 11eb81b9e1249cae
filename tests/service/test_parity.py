"""What is measured is what is served."""

from pathlib import Path

import httpx
import pytest

from evaluation.classes import Classes, resolve
from evaluation.data import open_data
from evaluation.judge import Judge
from evaluation.stress import Stage, conditions
from models.comparison import ARMS
from models.label_spaces import LabelSpace, imagenet_1k, tiny_imagenet
from models.served import Served
from tests.evaluation.photos import class_folders


@pytest.mark.parametrize("space", [imagenet_1k(), tiny_imagenet()], ids=lambda space: space.name)
def test_an_evaluation_answers_as_the_server_does(
    client: httpx.Client, served: Served, tmp_path: Path, space: LabelSpace
) -> None:
    """The same bytes over HTTP: first labels and their probabilities, of every arm, and the box."""
    data = open_data(str(class_folders(tmp_path)))
    wnids = resolve(data, [imagenet_1k()]).wnids
    mask = None if space == imagenet_1k() else tiny_imagenet()
    judge = Judge(served, Classes(wnids, mask), ("plain", "cropped", "combined", *ARMS))
    stage = Stage(data, wnids, conditions(()), 0)
    options: dict[str, str | int] = {"label_space": space.name, "top_k": 1, "arms": ",".join(ARMS)}
    compared = 0
    for index in range(len(data)):
        photo = data.read(index)
        if mask is not None and wnids[index] not in mask.wnids:
            continue
        sent = client.post("/predict", params=options, content=photo, headers={"Content-Type": "image/jpeg"})
        answer = sent.raise_for_status().json()
        for row in judge.rows(stage.show(index, photo)):
            if row["label_space"] != options["label_space"]:
                continue
            said = answer.get(row["arm"]) or answer["arms"].get(row["arm"]) or answer["plain"]
            assert row["index"] == said["top_k"][0]["index"]
            assert row["probability"] == pytest.approx(said["top_k"][0]["probability"], abs=1e-4)
            assert [row[name] for name in ("x1", "y1", "x2", "y2")] == pytest.approx(answer["box"]["xyxy"], abs=0.1)
            compared += 1
    assert compared >= len(judge.arms)

"""The sample photos that come with scikit-image and scikit-learn, and what they show."""

import importlib.util
from pathlib import Path
from typing import NamedTuple


class Sample(NamedTuple):
    """`labels` are the ImageNet labels that count as right."""

    package: str
    file: str
    labels: tuple[str, ...]

    @property
    def path(self) -> Path:
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"the sample photo {self.file} comes with {self.package}; install it")
        return Path(spec.submodule_search_locations[0]) / self.file


SAMPLES = {
    "chelsea": Sample("skimage", "data/chelsea.png", ("tiger cat", "Egyptian cat")),
    "coffee": Sample("skimage", "data/coffee.png", ("espresso",)),
    "rocket": Sample("skimage", "data/rocket.jpg", ("missile",)),
    "camera": Sample("skimage", "data/camera.png", ("tripod",)),
    "motorcycle_left": Sample("skimage", "data/motorcycle_left.png", ("moped",)),
    "china": Sample("sklearn", "datasets/images/china.jpg", ("palace",)),
    "flower": Sample("sklearn", "datasets/images/flower.jpg", ("daisy",)),
}

"""A run to be killed: python -m tests.evaluation.resumable DATA OUT CACHE MANIFEST."""

import sys
from pathlib import Path

from evaluation.classes import resolve
from evaluation.data import open_data
from evaluation.run import Plan, run
from evaluation.stress import Stage, conditions
from models.catalog import Catalog, read_manifest
from models.served import Loading, Served, load
from tests.conftest import LITE0

ARMS = ("plain", "cropped", "combined")


def plan_of(data: Path, served: Served, rows_a_part: int = 12, threads: int = 2) -> Plan:
    """With two photos a part."""
    found = open_data(str(data))
    classes = resolve(found, [served.classifier(None).model.label_space])
    stage = Stage(found, classes.wnids, conditions(()), 0)
    return Plan(stage, classes, (served,), ARMS, threads=threads, rows_a_part=rows_a_part)


def load_from(manifest: Path, cache: Path) -> Served:
    catalog: Catalog = read_manifest(manifest)
    return load(catalog, [LITE0], ["fcos_random"], Loading(cache))


if __name__ == "__main__":
    data, out, cache, manifest = map(Path, sys.argv[1:])
    run(plan_of(data, load_from(manifest, cache)), out)

"""docs/contract.md and SECURITY.md name tests that exist, and forget nothing that the code has."""

import ast
import re
from functools import cache
from pathlib import Path

import prometheus_client
import pytest

from models.photo import SERVED_FORMATS
from service import metrics
from service.openapi import STATUSES
from service.options import OptionFields

ROOT = Path(__file__).parents[1]
CONTRACT = (ROOT / "docs" / "contract.md").read_text("utf-8")
SECURITY = (ROOT / "SECURITY.md").read_text("utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED.findall(CONTRACT + SECURITY))))
def test_a_named_test_exists(file: str, name: str) -> None:
    assert name in names_in(file)


@pytest.mark.parametrize("text", [CONTRACT, SECURITY], ids=["contract", "SECURITY"])
def test_every_row_names_a_test(text: str) -> None:
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    bare = [row for row in rows if not NAMED.search(row) and not re.search(r"\| (---|test)", row)]
    assert not bare


def metric_names() -> list[str]:
    found = vars(metrics).values()
    kinds = (prometheus_client.Counter, prometheus_client.Gauge, prometheus_client.Histogram)
    names = [(family.name, one) for one in found if isinstance(one, kinds) for family in one.describe()]
    counters = prometheus_client.Counter
    return [name.removeprefix("figureground_") + "_total" * isinstance(one, counters) for name, one in names]


@pytest.mark.parametrize(
    "word", [*OptionFields.model_fields, *SERVED_FORMATS, *metric_names(), *map(str, sorted(STATUSES))]
)
def test_the_contract_has_a_row_for_all_of_the_code(word: str) -> None:
    first_cells = [line.split("|")[1] for line in CONTRACT.splitlines() if line.startswith("|")]
    assert any(re.search(rf"\b{word}\b", cell) for cell in first_cells)

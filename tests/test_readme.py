"""What the README says of settings is what the settings are."""

from pathlib import Path

import pytest

from service.settings import Settings

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_listed_with_its_description(name: str) -> None:
    row = next((line for line in README.splitlines() if line.startswith(f"| `{name.upper()}` |")), None)
    assert row is not None, f"README has no row for {name.upper()}"
    assert (Settings.model_fields[name].description or "") in row


def test_the_readme_lists_no_setting_that_is_none() -> None:
    section = README.split("## Settings")[1].split("## ")[0]
    listed = {line.split("`")[1].lower() for line in section.splitlines() if line.startswith("| `")}
    assert listed == set(Settings.model_fields)

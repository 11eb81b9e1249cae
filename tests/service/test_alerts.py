"""Prometheus's own checks of our rules: every alert fires, and stops."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: make system")


@needs_promtool
@pytest.mark.parametrize("command", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")])
def test_promtool(command: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *command], cwd=RULES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    alerts = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((RULES / "alerts_test.yml").read_text())["tests"]
    looks = [look for test in tests for look in test["alert_rule_test"]]
    for name in (alert["alert"] for alert in alerts):
        of_alert = [bool(look.get("exp_alerts")) for look in looks if look["alertname"] == name]
        assert True in of_alert
        assert not of_alert[-1]

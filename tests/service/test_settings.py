from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.catalog import DEFAULT_BACKBONES
from service.settings import Settings


@pytest.mark.parametrize(
    ("name", "text", "field", "expected"),
    [
        ("BACKBONES", "b.x, a.y", "backbones", ("b.x", "a.y")),
        ("BACKBONES", "", "backbones", DEFAULT_BACKBONES),
        ("MAX_BYTES", "5", "max_bytes", 5),
        ("MODELS", "m.toml", "models", Path("m.toml")),
        ("ACCESS_LOG", "true", "access_log", True),
        ("THREADS", "3", "worker_threads", 3),
        ("CORS_ORIGINS", "https://a.example, *", "cors_origins", ("https://a.example", "*")),
        ("CORS_ORIGINS", "", "cors_origins", ()),
        ("API_KEYS", "", "api_keys", ()),
        ("LOG_FORMAT", "json", "log_format", "json"),
    ],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, name: str, text: str, field: str, expected: Any) -> None:
    monkeypatch.setenv(f"FIGUREGROUND_{name}", text)
    assert getattr(Settings(), field) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BACKBONES", ","),
        ("MAX_BYTES", "0"),
        ("DEADLINE_SECONDS", "-1"),
        ("ENGINE", "tensorflow"),
        ("WORKERS", "-1"),
        ("LOG_FORMAT", "xml"),
        ("RATE_PER_MINUTE", "-1"),
    ],
)
def test_wrong_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(f"FIGUREGROUND_{name}", text)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize(
    ("chosen", "cores", "gpus", "processes", "threads"),
    [
        ({}, 1, 0, 1, 1),
        ({}, 2, 0, 1, 2),
        ({}, 23, 0, 1, 23),
        ({}, 25, 0, 2, 12),
        ({}, 32, 0, 2, 16),
        ({}, 64, 0, 4, 16),
        ({"photo_processes": False}, 11, 0, 1, 11),
        ({"photo_processes": False}, 12, 0, 2, 6),
        ({"photo_processes": False}, 64, 0, 8, 8),
        ({"engine": "torch"}, 64, 0, 8, 8),
        ({}, 2, 1, 1, 2),
        ({}, 8, 1, 2, 4),
        ({}, 16, 1, 4, 4),
        ({}, 64, 1, 4, 16),
        ({}, 64, 8, 16, 4),
        ({}, 4, 8, 8, 1),
        ({"device": "cuda"}, 64, 2, 8, 8),
        ({"device": "cuda:1"}, 64, 2, 4, 16),
        ({"device": "cpu"}, 64, 1, 4, 16),
        ({"workers": 3}, 64, 1, 3, 21),
        ({"workers": 3}, 64, 0, 3, 21),
        ({"workers": 3, "threads": 2}, 64, 0, 3, 2),
        ({"workers": 3}, 2, 0, 3, 1),
    ],
)
def test_workers_and_threads_suit_the_machine(
    chosen: dict[str, Any], cores: int, gpus: int, processes: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.settings.available_cores", lambda: cores)
    monkeypatch.setattr("service.settings.likely_gpus", lambda: gpus)
    found = Settings(**chosen)
    assert (found.worker_processes, found.worker_threads) == (processes, threads)


def test_the_cache_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FIGUREGROUND_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Settings().cache_dir == tmp_path / "figureground"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Settings().cache_dir == Path.home() / ".cache" / "figureground"


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())

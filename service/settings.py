"""Everything an operator may set, by environment variables `FIGUREGROUND_*`."""

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), Field(min_length=1)]


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "figureground"


class Settings(BaseSettings):
    """One value each, read once a process."""

    model_config = SettingsConfigDict(env_prefix="FIGUREGROUND_", env_ignore_empty=True)

    backbones: Names = Field(
        DEFAULT_BACKBONES, description="Backbones that are served: a comma list of names, the default first."
    )
    detectors: Names = Field(
        DEFAULT_DETECTORS, description="Detectors that are served: a comma list of names, the default first."
    )
    models: Path | None = Field(None, description="TOML manifest of the operator's own models: a path.")
    cache_dir: Path = Field(
        default_factory=_default_cache,
        description="Folder for exported graphs; by default figureground in the user's cache folder.",
    )
    device: str = Field("auto", description="Where models run: auto, cpu, cuda, cuda:1, ...")
    engine: Literal["auto", "onnxruntime", "torch"] = Field(
        "auto", description="What runs them: auto is onnxruntime on a CPU and torch on a GPU."
    )
    workers: int = Field(1, ge=1, description="Server processes; every one loads all models.")
    threads: int = Field(
        0, ge=0, description="Photos in work at once in one worker; 0 shares the available cores among the workers."
    )
    max_queue: int = Field(64, ge=0, description="Photos that may wait for a thread in one worker; 429 beyond.")
    max_batch: int = Field(16, ge=1, description="Most photos in one POST /predict/batch.")
    max_bytes: int = Field(20 * 2**20, ge=1, description="Largest photo file, in bytes.")
    max_pixels: int = Field(50_000_000, ge=1, description="Largest photo, width times height in pixels.")
    deadline_seconds: float = Field(
        30, gt=0, description="Seconds from a request's first byte until it is answered with 504."
    )
    drain_seconds: float = Field(
        1, ge=0, description="Seconds that /readyz says 503 before a stopping worker closes its socket."
    )
    access_log: bool = Field(False, description="Log a line a request; costs 0.2 to 0.5 ms each.")

    @property
    def worker_threads(self) -> int:
        """`threads`, with 0 resolved for this machine."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.workers)


@cache
def settings() -> Settings:
    """This process's settings. Raises `pydantic.ValidationError`."""
    return Settings()

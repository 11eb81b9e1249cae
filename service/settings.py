"""Everything an operator may set, by environment variables `FIGUREGROUND_*`."""

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS
from models.devices import likely_gpus
from service.cores import available_cores
from service.database import parse_url

# Of a worker's processes, whose event loop has no time for many more, and of its threads, which wait for each other's
# Python (`python -m loadtests.cores`).
_CORES_A_WORKER, _CORES_OF_THREADS = 16, 8
# And where those threads ask a GPU, which then has little to do for each. Its workers take turns on it, so that more
# than a few gain nothing (`python -m loadtests.gpu serve`).
_CORES_BESIDE_A_GPU, _WORKERS_A_GPU = 4, 4


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), Field(min_length=1)]

Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "figureground"


def _default_journal() -> str:
    """A file of the user's state; set but empty, which for any other setting means its default, means off."""
    if "FIGUREGROUND_JOURNAL_URL" in os.environ:
        return ""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return f"sqlite:///{state / 'figureground' / 'journal.db'}"


def _whole_url(url: str) -> str:
    """The server's processes run in another folder, so that a file's path must be absolute."""
    return parse_url(url).render_as_string(hide_password=False) if url else url


def _with_exporter(endpoint: str) -> str:
    if endpoint and not find_spec("opentelemetry.exporter.otlp"):
        raise ValueError("needs the extra traces: pip install 'figureground[traces]'")
    return endpoint


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
    engine: Literal["auto", "onnxruntime", "int8", "torch"] = Field(
        "auto",
        description="What runs them: auto is onnxruntime on a CPU and torch on a GPU; "
        "int8 is onnxruntime with quantised classifiers.",
    )
    calibration: Path | None = Field(
        None, description="Folder of about 100 photos like yours, which the engine int8 needs."
    )
    load: Literal["all", "first"] = Field(
        "all",
        description="When /readyz says 200: all, once every model answers; first, once the first backbone and detector "
        "do: the others are loaded beside serving, and answer 503 until then.",
    )
    workers: int = Field(
        0,
        ge=0,
        description="Server processes; every one loads all models. 0 is one for about 16 cores, where there is a GPU "
        "for about 4, but at most 4 a GPU.",
    )
    threads: int = Field(
        0, ge=0, description="Photos in work at once in one worker; 0 shares the available cores among the workers."
    )
    photo_processes: bool = Field(
        True,
        description="Whether each of them has a process of its own, which shares the models, and not a thread; never "
        "on a GPU, nor with models that run in torch.",
    )
    max_queue: int = Field(64, ge=0, description="Photos that may wait in one worker; 429 beyond.")
    max_queue_pixels: int = Field(
        1_000_000_000, ge=1, description="Pixels of all photos that may wait in one worker; 429 beyond."
    )
    max_batch: int = Field(16, ge=1, description="Most photos in one POST /predict/batch.")
    max_bytes: int = Field(20 * 2**20, ge=1, description="Largest photo file, in bytes.")
    max_pixels: int = Field(50_000_000, ge=1, description="Largest photo, width times height in pixels.")
    deadline_seconds: float = Field(
        30, gt=0, description="Seconds from a request's first byte until it is answered with 504."
    )
    decode_seconds: int = Field(
        10,
        ge=1,
        description="Seconds of processor time that decoding a TIFF, an AVIF or a JPEG of many scans may take.",
    )
    drain_seconds: float = Field(
        1, ge=0, description="Seconds that /readyz says 503 before a stopping worker closes its socket."
    )
    journal_url: Annotated[str, AfterValidator(_whole_url)] = Field(
        default_factory=_default_journal,
        validate_default=True,
        repr=False,
        description="Database of the answers: sqlite:///FILE, postgresql://... or another SQLAlchemy URL; empty: off. "
        "By default figureground/journal.db in the user's state folder.",
    )
    journal_backlog: int = Field(
        10_000, ge=1, description="Rows that one worker keeps in memory while the database is away; more are lost."
    )
    journal_days: float = Field(0, ge=0, description="Days until an answer and its feedback are deleted; 0: never.")
    drift_hours: int = Field(24, ge=1, description="Hours of the latest answers in which a drift is looked for.")
    drift_reference_hours: int = Field(
        168, ge=1, description="Hours before those, with whose answers they are compared."
    )
    traces: Annotated[str, AfterValidator(_with_exporter)] = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="OTLP/HTTP address that spans are sent to, such as http://localhost:4318/v1/traces; empty: off.",
    )
    api_keys: Secrets = Field(
        (), description="Keys, a comma list, of which every request must have one; empty: open to all."
    )
    open_metrics: bool = Field(False, description="Whether /metrics asks for no API key.")
    rate_per_minute: int = Field(
        0, ge=0, description="Requests a minute, and at once, of one API key to one worker; 0: no limit."
    )
    cors_origins: Words = Field(
        (), description="Origins whose pages may ask, a comma list such as https://example.org, or *; empty: none."
    )
    max_bytes_in_flight: int = Field(
        512 * 2**20, ge=1, description="Bytes of all bodies that one worker holds at once; 429 beyond."
    )
    max_connections: int = Field(512, ge=1, description="Connections to one worker at once; 503 beyond.")
    head_seconds: float = Field(
        10, gt=0, description="Seconds until a request's line and headers have arrived; 408 beyond."
    )
    access_log: bool = Field(False, description="Log a line a request, with its id; no photo, no key.")
    log_format: Literal["text", "json"] = Field("text", description="Lines of text, or a JSON object a line.")

    @property
    def at_first(self) -> "Settings":
        """With those models only that are loaded before the service is ready."""
        if self.load == "all":
            return self
        return self.model_copy(update={"backbones": self.backbones[:1], "detectors": self.detectors[:1]})

    @property
    def worker_processes(self) -> int:
        """`workers`, with 0 resolved for this machine."""
        if self.workers:
            return self.workers
        gpus = self._gpus
        if gpus:
            return max(gpus, min(_WORKERS_A_GPU * gpus, round(available_cores() / _CORES_BESIDE_A_GPU)))
        several = _CORES_A_WORKER if self.photo_processes and self.engine != "torch" else _CORES_OF_THREADS
        return max(1, round(available_cores() / several))

    @property
    def _gpus(self) -> int:
        """How many the workers are likely to share."""
        if self.device == "cpu":
            return 0
        return likely_gpus() if self.device in ("auto", "cuda") else 1

    @property
    def worker_threads(self) -> int:
        """`threads`, with 0 resolved for this machine."""
        return self.threads or max(1, available_cores() // self.worker_processes)


@cache
def settings() -> Settings:
    """This process's settings. Raises `pydantic.ValidationError`."""
    return Settings()

"""Two versions behind one port, one after the other, under load: no request is lost, and no row of the journal."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select, text

from evaluation.samples import SAMPLES
from models.served import Served
from service.database import Database
from service.migrations import versions
from service.rows import Answer
from service.running import RunningService, free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed: make system"),
]
ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "deploy" / "nginx" / "figureground.conf"
_MARK = "<!-- the next version -->"
_MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{number:03}", "{before:03}"


def upgrade() -> None:
    op.add_column("answers", sa.Column("remark", sa.String))
"""


@pytest.fixture
def next_version(tmp_path: Path) -> Path:
    """A copy of the checkout with another page and one more migration."""
    copy = tmp_path / "next"
    for name in ("models", "service", "evaluation"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    page = copy / "service" / "page" / "index.html"
    page.write_text(page.read_text("utf-8") + _MARK, "utf-8")
    folder = copy / "service" / "migrations" / "versions"
    before = len(list(folder.glob("v*.py")))
    (folder / f"v{before + 1:03}_next.py").write_text(_MIGRATION.format(number=before + 1, before=before))
    return copy


@pytest.fixture
def ports() -> tuple[int, int, int]:
    """Of nginx, and of the two services behind it."""
    return free_port(), free_port(), free_port()


@pytest.fixture
def front(ports: tuple[int, int, int], tmp_path: Path) -> Iterator[str]:
    """nginx with the project's own configuration on free ports."""
    found = CONFIGURATION.read_text()
    for written, port in zip((3000, 3001, 3002), ports, strict=True):
        assert f"127.0.0.1:{written}" in found
        found = found.replace(f"127.0.0.1:{written}", f"127.0.0.1:{port}")
    (tmp_path / "figureground.conf").write_text(found)
    whole = f"""
        daemon off; pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log; worker_processes 1;
        events {{}}
        http {{
            access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;
            fastcgi_temp_path {tmp_path}/a; uwsgi_temp_path {tmp_path}/b; scgi_temp_path {tmp_path}/c;
            include {tmp_path}/figureground.conf;
        }}
    """
    (tmp_path / "nginx.conf").write_text(whole)
    # Its workers are another user where it is started by root.
    tmp_path.parent.parent.chmod(0o755)
    tmp_path.parent.chmod(0o755)
    tmp_path.chmod(0o777)
    process = subprocess.Popen(["nginx", "-c", str(tmp_path / "nginx.conf"), "-e", "stderr"])
    yield f"http://127.0.0.1:{ports[0]}"
    process.terminate()
    process.wait(30)


@contextmanager
def version(code: Path, port: int, environment: Mapping[str, str], log: Path) -> Iterator[RunningService]:
    command = [sys.executable, "-m", "service.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("ab") as output:
        settings = {**environment, "PYTHONPATH": str(code)}
        process = subprocess.Popen(command, cwd=code, env=settings, stdout=output, stderr=subprocess.STDOUT)
    service = RunningService(f"http://127.0.0.1:{port}", process)
    try:
        service.wait_until_ready(300)
        yield service
    finally:
        if process.poll() is None:
            process.kill()


def test_an_upgrade_under_load_loses_nothing(
    front: str,
    ports: tuple[int, int, int],
    next_version: Path,
    environment: Mapping[str, str],
    served: Served,  # noqa: ARG001 exports lite0
    tmp_path: Path,
) -> None:
    """The old version on both ports; each is stopped and started as the new one while photos come in all the time."""
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    settings = {**environment, "FIGUREGROUND_JOURNAL_URL": url}
    log, outcomes, is_over = tmp_path / "log", Counter[str](), threading.Event()
    photo = SAMPLES["rocket"].path.read_bytes()

    def send() -> None:
        while not is_over.is_set():
            try:
                answer = httpx.post(
                    f"{front}/predict", content=photo, headers={"Content-Type": "image/jpeg"}, timeout=60
                )
                outcomes[str(answer.status_code)] += 1
            except httpx.TransportError as error:
                outcomes[repr(error)] += 1

    def wait_for(more: int) -> None:
        enough = outcomes["200"] + more
        deadline = time.monotonic() + 120
        while outcomes["200"] < enough:
            assert time.monotonic() < deadline, (outcomes, log.read_text())
            time.sleep(0.05)

    senders = [threading.Thread(target=send) for _ in range(2)]
    with version(ROOT, ports[1], settings, log) as old, version(ROOT, ports[2], settings, log) as other:
        try:
            for sender in senders:
                sender.start()
            wait_for(10)
            assert old.stop() == 0
            with version(next_version, ports[1], settings, log) as new:
                assert _MARK in httpx.get(new.url).text
                # Old and new at once, in one journal.
                wait_for(20)
                assert _MARK not in httpx.get(other.url).text
                assert other.stop() == 0
                with version(next_version, ports[2], settings, log) as newer:
                    wait_for(10)
                    is_over.set()
                    for sender in senders:
                        sender.join()
                    assert (new.stop(), newer.stop()) == (0, 0)
        finally:
            is_over.set()
    assert set(outcomes) == {"200"}, outcomes
    database = Database(url)
    with database.reading() as connection:
        assert connection.scalar(select(func.count()).select_from(Answer)) == outcomes["200"]
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == f"{_migrations() + 1:03}"


def _migrations() -> int:
    return len(list(Path(os.fspath(versions.__file__ or "")).parent.glob("v*.py")))

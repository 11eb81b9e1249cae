from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from evaluation import outputs
from evaluation.data import DataError
from evaluation.outputs import Output

URL = "memory://outputs/run"


@pytest.fixture
def there() -> Iterator[fsspec.AbstractFileSystem]:
    memory = fsspec.filesystem("memory")
    yield memory
    if memory.exists("/outputs"):
        memory.rm("/outputs", recursive=True)


def names(memory: fsspec.AbstractFileSystem) -> set[str]:
    return {path.removeprefix("/outputs/run/") for path in memory.find("/outputs/run")}


def write(output: Output, name: str, text: str = "x") -> None:
    path = output.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_folder_is_worked_on_in_place(tmp_path: Path) -> None:
    with Output.at(str(tmp_path / "run")) as output:
        assert output.folder == tmp_path / "run"
        output.keep()
    assert not (tmp_path / "run").exists()


def test_a_run_that_stopped_goes_on_elsewhere(there: fsspec.AbstractFileSystem) -> None:
    """What it had is there, however it ended; once merged, its parts go."""

    def stopped() -> None:
        with Output.at(URL) as output:
            write(output, "run.json", "begun")
            write(output, "parts/000000.parquet")
            write(output, "parts/000001.tmp")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert names(there) == {"run.json", "parts/000000.parquet"}
    with Output.at(URL) as output:
        assert (output.folder / "run.json").read_text() == "begun"
        (output.folder / "parts" / "000000.parquet").unlink()
        write(output, "run.json", "done")
        write(output, "results.parquet")
        write(output, "report.html")
    assert names(there) == {"run.json", "results.parquet", "report.html"}
    assert there.cat_file("/outputs/run/run.json") == b"done"


def test_it_is_kept_while_it_grows(there: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    with Output.at(URL) as output:
        write(output, "run.json")
        output.keep()
        assert names(there) == set()
        monkeypatch.setattr(outputs, "_SECONDS_BETWEEN_COPIES", -1)
        output.keep()
        assert names(there) == {"run.json"}


def test_what_others_put_there_stays_there(there: fsspec.AbstractFileSystem) -> None:
    for name in ("data.bin", "parts/notes.txt"):
        there.pipe_file(f"/outputs/run/{name}", b"x")
    with Output.at(URL) as output:
        assert not list(output.folder.iterdir())
    assert names(there) == {"data.bin", "parts/notes.txt"}


def test_no_such_place() -> None:
    with pytest.raises(DataError, match="nowhere://bucket"), Output.at("nowhere://bucket"):
        pass

"""Give every pin of a lock the sha256 of all its files, as the package index tells them; nothing is downloaded.

python deploy/hashes.py requirements.lock ...

`pip-compile --generate-hashes` does the same where the index has PyPI's JSON API; with a mirror it would download every
file of every platform, many GB for torch alone.
"""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from piptools.repositories import PyPIRepository

_PIN = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^\s;]+)(?P<marker>\s*;[^#]*?)?\s*(?P<why>#.*)?$")


def hashes(name: str, version: str) -> list[str]:
    repository = PyPIRepository([], cache_dir="")
    with repository.allow_all_wheels():
        links = [found.link for found in repository.find_all_candidates(name) if str(found.version) == version]
    found = {link.hash for link in links if link.hash_name == "sha256" and not link.is_file and link.hash}
    if not found:
        raise SystemExit(f"{name}=={version}: the index tells no sha256 of its files")
    return sorted(found)


def hashed(line: str) -> str:
    """A line of a lock with its hashes; other lines as they are."""
    pin = _PIN.match(line)
    if pin is None:
        return line
    told = [f"{pin['name']}=={pin['version']}{pin['marker'] or ''}"]
    told += [f"    --hash=sha256:{digest}" for digest in hashes(pin["name"], pin["version"])]
    comment = [f"    {pin['why']}"] if pin["why"] else []
    return "\n".join([" \\\n".join(told), *comment])


def main(locks: list[str]) -> None:
    for lock in locks:
        path = Path(lock)
        lines = path.read_text("utf-8").splitlines()
        with ThreadPoolExecutor(4) as pool:
            found = []
            for number, line in enumerate(pool.map(hashed, lines), 1):
                print(f"\r{lock}: {number} of {len(lines)}", end="", file=sys.stderr)
                found.append(line)
        print(file=sys.stderr)
        path.write_text("\n".join(found) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Which Python an environment is made with: `python3 deploy/choose_python.py` prints its path.

A node's time is mostly the interpreter's, and two builds of one version differ by half in speed: distributions build
with profile-guided optimisation, tools that compile a Python on the spot often don't. So where another build of the
same minor version as the one that runs this is clearly faster, it is that one. Only what Python brings along is used
here: there is no environment yet.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from time import process_time

CLEARLY = 0.87
"""Of the time that this interpreter takes; what is nearer may be chance."""
FOLDERS = ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")
"""Where the system's own are, besides PATH."""
PATIENCE_S = 20.0
SQLITE_MIN = (3, 31)
"""An older one is refused by the node."""
ROUNDS, CALLS = 25, 10_000


class _Counter:
    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count

    def more(self, by: int) -> int:
        return self.count + by


def _work() -> None:
    seen: dict[int, tuple[int, int]] = {}
    for number in range(CALLS):
        counter = _Counter(number)
        seen[number & 255] = (counter.more(1), number)


def seconds() -> float:
    """Of the processor, for calls, attributes, tuples and a dict in this interpreter: the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = process_time()
        _work()
        best = min(best, process_time() - began)
    return best


def kind() -> str:
    """The version and the binary interface: packages that fit one interpreter of a kind fit all.

    Raises ImportError for one that lacks what a node needs.
    """
    import ssl, sqlite3, venv  # noqa: E401, F401, I001, PLC0415

    if sqlite3.sqlite_version_info < SQLITE_MIN:
        raise ImportError(f"SQLite {sqlite3.sqlite_version}")
    return f"{sysconfig.get_config_var('SOABI')} {sys.platform}"


def others() -> list[str]:
    """Other interpreters of this version, each once."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    known, found = {os.path.realpath(sys.executable)}, []
    for folder in (*os.environ.get("PATH", "").split(os.pathsep), *FOLDERS):
        path = os.path.join(folder, name)
        if os.path.isfile(path) and (real := os.path.realpath(path)) not in known:
            known.add(real)
            found.append(path)
    return found


def measured(path: str) -> tuple[float, str] | None:
    """What another interpreter says of itself; None where it can't be used."""
    try:
        run = subprocess.run(
            [path, "-I", __file__, "--measure"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        took, itself = run.stdout.split(maxsplit=1)
        return float(took), itself.strip()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def main() -> None:
    """Prints the path; why, where it is not the one that was asked, goes to the error output."""
    if sys.argv[1:] == ["--measure"]:
        print(seconds(), kind())
        return
    try:
        own_s, own_kind = seconds(), kind()
    except ImportError:  # whatever comes of it, pip says it better
        print(sys.executable)
        return
    chosen, best_s = sys.executable, float("inf")
    for path in others():
        found = measured(path)
        if found is not None and found[1] == own_kind and found[0] < min(best_s, CLEARLY * own_s):
            chosen, best_s = path, found[0]
    if chosen != sys.executable:
        print(
            f"{chosen} is {own_s / best_s:.1f} times as fast as {sys.executable}: the environment is made with it. "
            "PYTHON=... names another.",
            file=sys.stderr,
        )
    print(chosen)


if __name__ == "__main__":
    main()

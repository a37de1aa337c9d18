"""wrk with scripts of our own: a closed loop whose generator takes little of the machine.

One wrk for all members, a thread for each, so that its percentiles are those of all clients together. wrk corrects its
histogram for what a stalled connection could not send (it assumes an even pace per connection), so its tails are
rather too high than too low, and the same way at both sides.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from loadtests.cases.results import Round
from loadtests.cases.sides.side import Member

SCRIPTS = Path(__file__).parent / "lua"
TIMEOUT_S = 10
LATE_S = 30
"""After the time that wrk was given."""
MARK = "CASES "


class NoWrk(Exception):
    """wrk did not run, or did not say what it measured; why stands in the message."""


def is_there() -> bool:
    """Whether wrk is installed."""
    return shutil.which("wrk") is not None


def closed_loop(
    script: str,
    side: str,
    members: list[Member],
    connections: int,
    seconds: int,
    settings: Mapping[str, str | int],
    threads: int | None = None,
) -> tuple[Round, dict[str, Any]]:
    """Runs that script against those members. Also returns all that it reported. Raises NoWrk.

    settings: CASES_... of the scripts. threads: one per member if not told.
    """
    threads = threads or min(len(members), connections)
    places = ",".join(f"{member.host}:{member.port}" for member in members)
    told = {"SIDE": side, "ADDRESSES": places, "THREADS": threads, **settings}
    environment = {**os.environ, "LUA_PATH": f"{SCRIPTS}/?.lua;;", **{f"CASES_{k}": str(v) for k, v in told.items()}}
    url = f"http://{members[0].host}:{members[0].port}"
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", f"{TIMEOUT_S}s"]
    used_s = _children_s()
    try:
        done = subprocess.run(
            [*command, "-s", str(SCRIPTS / f"{script}.lua"), url],
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds + LATE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoWrk(f"{script}: {error}") from error
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise NoWrk(f"{script} said nothing: {done.stdout[-400:]}{done.stderr[-400:]}")
    report: dict[str, Any] = msgspec.json.decode(line.removeprefix(MARK))
    return round_of(report, _children_s() - used_s), report


def round_of(report: Mapping[str, Any], client_s: float) -> Round:
    """What a script's last line says."""
    seconds = report["seconds"]
    return Round(
        requests=report["requests"],
        seconds=round(seconds, 3),
        per_s=round(report["requests"] / seconds, 1),
        p50_ms=report["p50_us"] / 1000,
        p99_ms=report["p99_us"] / 1000,
        p999_ms=report["p999_us"] / 1000,
        max_ms=report["max_us"] / 1000,
        wrong=report["status_errors"] + report["socket_errors"] + report["timeouts"],
        client_cores=round(client_s / seconds, 3),
    )


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

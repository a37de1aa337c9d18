"""`make loadtest`, `python -m loadtests`: a profile on a fresh cluster, and where its report is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
import msgspec

from cli.options import DURATION
from kvstore.node_process import dying_with
from loadtests.runner.chaos import RESTART_AFTER, Chaos
from loadtests.runner.cluster import LoadCluster, NoCluster
from loadtests.runner.progress import RunProgress
from loadtests.thresholds import DEFAULT_FILE, load_thresholds
from loadtests.verdict import ExitCode, read_verdict, show

HERE = Path(__file__).parent.parent
SHAPE_OF = {"steps": "steps", "spike": "spike", "soak": "soak", "chaos": "soak"}
STOP_TIMEOUT_S = 8
"""What a user has begun is finished: longer than a node tries."""
AFTER_S_MAX = 180.0
"""From the end of the load to the verdict."""
POLL_S = 0.25
LOG_LINES = 30


@click.command(context_settings={"show_default": True})
@click.option("--profile", type=click.Choice(tuple(SHAPE_OF)), default="steps", help="How the load goes.")
@click.option("--time", "seconds", type=DURATION, default="2m", help="How long it takes.")
@click.option("--users", type=click.IntRange(1), default=60, help="At the peak.")
@click.option("--processes", type=click.IntRange(1), default=2, help="Locust's worker processes.")
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), help="A folder. [default: by date]")
@click.option("--thresholds", type=click.Path(path_type=Path, exists=True), default=DEFAULT_FILE, help="What decides.")
@click.option("--base-port", type=click.IntRange(1024, 60_000), help="Of the first node. [default: a free one]")
@click.argument("locust", nargs=-1, type=click.UNPROCESSED)
def main(
    *,
    profile: str,
    seconds: float,
    users: int,
    processes: int,
    report: Path | None,
    thresholds: Path,
    base_port: int | None,
    locust: Sequence[str],
) -> None:
    """Run a load test on a fresh three-node cluster. What stands after `--` goes to Locust.

    Exit code 0: thresholds kept and promises too; 1: a threshold was broken, or the test proves nothing; 9: a promise
    was broken.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all is ended in order
    try:
        load_thresholds(thresholds)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--thresholds") from error
    folder = report or Path("loadtest-report") / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{profile}"
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verdict.json").unlink(missing_ok=True)  # of an earlier run
    options = ["-u", str(users), "-t", f"{max(1, round(seconds))}s", "--processes", str(processes)]
    options += ["--threshold-profile", profile, "--thresholds", str(thresholds.absolute()), *locust]
    try:
        code = _run(profile, seconds, folder, options, base_port)
    except NoCluster as error:
        raise click.ClickException(str(error)) from error
    sys.exit(code)


def _run(profile: str, seconds: float, folder: Path, options: Sequence[str], base_port: int | None) -> int:
    is_chaos = profile == "chaos"
    troubles: list[str] = []
    with LoadCluster(RESTART_AFTER if is_chaos else "never", base_port) as cluster:
        process = _start_locust(cluster, profile, folder, options)
        with ExitStack() as stack:
            stack.callback(_end, process)
            progress = stack.enter_context(RunProgress(profile, seconds, folder / "stats_stats_history.csv"))
            progress.say(f"{len(cluster.urls)} nodes: {' '.join(cluster.urls)}")
            chaos = stack.enter_context(Chaos(cluster, seconds, progress.say)) if is_chaos else None
            until_s = time.monotonic() + seconds + AFTER_S_MAX
            while process.poll() is None and time.monotonic() < until_s:
                progress.update()
                time.sleep(POLL_S)
        if chaos is not None:
            troubles += chaos.troubles
            progress.say(f"nodes were killed {chaos.deaths} times")
        if process.returncode:
            cluster.save_logs(folder / "nodes")
    return _conclude(folder, process.returncode, troubles)


def _start_locust(cluster: LoadCluster, profile: str, folder: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
    files = f"{HERE / 'locustfile.py'},{HERE / 'shapes' / SHAPE_OF[profile]}.py"
    port = str(cluster.locust_port)
    command = [sys.executable, "-m", "locust", "-f", files, "--headless", "--only-summary"]
    command += ["--nodes", ",".join(cluster.urls), "--stop-timeout", str(STOP_TIMEOUT_S)]
    command += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    command += ["--csv", str(folder / "stats"), "--csv-full-history", "--html", str(folder / "report.html")]
    command += ["--verdict", str(folder / "verdict.json"), *options]
    with (folder / "locust.log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=HERE.parent,
            env={name: value for name, value in os.environ.items() if not name.startswith(("LOCUST_", "LOADTEST_"))},
            process_group=0,
            preexec_fn=dying_with(os.getpid()),  # noqa: PLW1509 - no thread runs yet
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Locust ends its workers, and still writes its report, when it is asked to end."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(2 * STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _conclude(folder: Path, code: int, troubles: list[str]) -> int:
    """Says where the report is and, last, what it came to. Returns the exit code."""
    print(f"\nreport: {folder / 'report.html'}\n        {folder}/*.csv, locust.log, verdict.json\n")
    try:
        verdict = read_verdict(folder / "verdict.json")
    except OSError:
        print("Locust came to no verdict. The end of its log:\n", *_tail(folder / "locust.log"), sep="\n")
        return code or ExitCode.BREACHED
    verdict = msgspec.structs.replace(verdict, troubles=[*verdict.troubles, *troubles])
    verdict.write(folder / "verdict.json")
    show(verdict)
    return verdict.exit_code


def _tail(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-LOG_LINES:]

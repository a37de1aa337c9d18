"""One load test, from its start to its verdict: the options, the workers' accounts, the checks, the exit code.

Wired into Locust by its events. Before a test ends, the master asks each worker to settle: to stop its users and say
all that it knows. Locust itself gives workers half a second for their last report, and a counter can only be judged
when every increment is accounted for.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import gevent
from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtests.correctness.final_reads import final_counts
from loadtests.correctness.holders import this_machine
from loadtests.correctness.ledger import Audit, Finding, Ledger
from loadtests.thresholds import DEFAULT_FILE, Measured, Thresholds, judge, load_thresholds
from loadtests.users.routes import Routes
from loadtests.verdict import Verdict, show

DEFAULT_NODES = "http://127.0.0.1:7001,http://127.0.0.1:7002,http://127.0.0.1:7003"
"""Where `make run` listens."""
SETTLE, SETTLED = "kvstore-settle", "kvstore-settled"
SETTLE_S_MAX = 30.0
"""On top of --stop-timeout. A worker that has said nothing by then is lost, and the test undecided."""
CSV_S = 1.5
"""Locust writes its CSV files once a second; the checks shall be in them."""
CHECK = "CHECK"
RUN = "kvstore_run"
"""Under this name the options carry the run's prefix from the master to the workers."""


_here: LoadTest | None = None
"""The one of this process, for events that don't say whose they are."""


class LoadTest:
    """Of one Locust process: master, worker, or the only one."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.machine = this_machine()
        self.process = f"{socket.gethostname()}-{os.getpid()}"
        self.ledger = Ledger()
        self.audit = Audit()
        self.findings: list[Finding] | None = None
        self.verdict: Verdict | None = None
        self.thresholds = Thresholds()
        self._settled: set[str] = set()

    @staticmethod
    def of(environment: Environment) -> LoadTest:
        """The one of that environment; made when it is first asked for."""
        found = getattr(environment, "kvstore_load_test", None)
        if found is None:
            found = environment.kvstore_load_test = LoadTest(environment)
        return found

    # -- what users ask for ------------------------------------------------------------------------------------

    @property
    def options(self) -> Any:
        """Locust's options, ours among them."""
        return self.environment.parsed_options

    @property
    def nodes(self) -> list[str]:
        """--nodes, else --host, else those of `make run`."""
        told = self.options.nodes or self.environment.host or DEFAULT_NODES
        bare = [node.strip().rstrip("/") for node in told.split(",") if node.strip()]
        return [node if "://" in node else f"http://{node}" for node in bare]

    @cached_property
    def routes(self) -> Routes:
        """Where requests are best sent to."""
        return Routes(self.nodes, turn=os.getpid())

    def best_node(self, method: str, target: str, headers: Mapping[str, str], waits: bool) -> str | None:
        """The node to ask first; None where any is as good, or nobody is to look for a better one."""
        return None if self.options.no_routing else self.routes.first(method, target, headers, waits)

    @property
    def prefix(self) -> str:
        """What all names of this run begin with."""
        return getattr(self.options, RUN, "load/")

    @property
    def keys(self) -> int:
        """How many keys of a kind there are."""
        return int(self.options.keys)

    @property
    def counters(self) -> int:
        """How many counters everybody fights for."""
        return int(self.options.counters)

    @property
    def locks(self) -> int:
        """How many locks everybody wants."""
        return int(self.options.locks)

    @property
    def value(self) -> bytes:
        """What is written."""
        return b"x" * int(self.options.value_bytes)

    def key(self, kind: str, number: int) -> str:
        """A key's name."""
        return f"{self.prefix}{kind}/{number}"

    def counter(self, number: int) -> str:
        """A counter's key."""
        return f"{self.prefix}counter-{number}"

    def lock(self, number: int) -> str:
        """A lock's name."""
        return f"{self.prefix}lock-{number}"

    # -- from start to verdict ---------------------------------------------------------------------------------

    @property
    def is_worker(self) -> bool:
        """It makes load, and judges nothing."""
        return isinstance(self.environment.runner, WorkerRunner)

    @property
    def is_master(self) -> bool:
        """It makes no load itself."""
        return isinstance(self.environment.runner, MasterRunner)

    def begin(self) -> None:
        """A new test, also after an earlier one in the web interface: new names, empty books."""
        self.ledger = Ledger()
        self.audit = Audit()
        self.findings = self.verdict = None
        self._settled = set()
        self.__dict__.pop("routes", None)  # of the nodes that the last one was about
        if not self.is_worker:
            setattr(self.options, RUN, f"{self.options.key_prefix}{secrets.token_hex(4)}/")

    def settle(self) -> None:
        """A worker's end: its users stop, and it says all that is left to say."""
        runner = self.environment.runner
        runner.stop()
        self.ledger.is_closed = True
        runner.send_message(SETTLED, {"account": self.ledger.account()})

    def settled(self, worker: str, account: dict[str, Any]) -> None:
        """To the master: that worker has stopped, and this is its last word."""
        self.audit.take(worker, account)
        self._settled.add(worker)

    def gather(self) -> None:
        """The master's wait for every worker's last word."""
        runner = self.environment.runner
        workers = set(runner.worker_indexes)  # the lost are among them
        runner.send_message(SETTLE)
        until_s = time.monotonic() + self.environment.stop_timeout + SETTLE_S_MAX
        while (missing := workers - self._settled) and time.monotonic() < until_s:
            if missing <= {worker.id for worker in runner.clients.missing} | (workers - set(runner.clients)):
                break
            gevent.sleep(0.05)
        if missing:
            self.audit.leave_open(f"{len(missing)} of {len(workers)} workers did not say what they did")

    def judge_correctness(self) -> None:
        """Reads what there is to read in the end, and puts a row for each check into Locust's own report."""
        if self.findings is not None:
            return
        if not self.is_master:
            self.ledger.is_closed = True
            self.audit.take("local", self.ledger.account())
        self.findings = self.audit.findings(final_counts(self.nodes, self.audit.counters))
        for finding in self.findings:
            error = None if finding.verdict == "held" else RuntimeError(f"{finding.verdict}: {finding.words}")
            self.environment.events.request.fire(
                request_type=CHECK, name=finding.check, response_time=0, response_length=0, exception=error, context={}
            )
        if self.options.csv_prefix:
            gevent.sleep(CSV_S)

    def decide(self) -> None:
        """Holds what was measured to the thresholds; sets the exit code."""
        profile = self.options.threshold_profile
        troubles = []
        if not self.environment.stats.total.num_requests:
            troubles.append("no request was made: this proves nothing")
        if self.environment.runner.exceptions:
            troubles.append("users raised exceptions; see the log, or the file of exceptions")
        rows = judge(self.thresholds, profile, self._measured())
        self.verdict = Verdict(profile, rows, self.findings or [], troubles)
        self.environment.process_exit_code = int(self.verdict.exit_code)
        if self.options.verdict:
            self.verdict.write(Path(self.options.verdict))

    def _measured(self) -> list[Measured]:
        return [
            Measured(
                f"{entry.method} {entry.name}",
                entry.num_requests,
                entry.num_failures,
                entry.get_response_time_percentile(0.95) or 0.0,
                entry.get_response_time_percentile(0.99) or 0.0,
            )
            for entry in self.environment.stats.entries.values()
            if entry.method != CHECK
        ]


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Ours, beside Locust's own; each is an environment variable, too."""
    group = parser.add_argument_group("kvstore")
    add = group.add_argument
    add("--nodes", env_var="LOADTEST_NODES", default="", help=f"Nodes to spread users over. [default: {DEFAULT_NODES}]")
    add(
        "--no-routing",
        env_var="LOADTEST_NO_ROUTING",
        action="store_true",
        help="Users keep to their own node, and what it can't do itself is handed on.",
    )
    add("--keys", env_var="LOADTEST_KEYS", type=int, default=1000, help="Keys that are read and written.")
    add("--counters", env_var="LOADTEST_COUNTERS", type=int, default=4, help="Hot keys that are counted up.")
    add("--locks", env_var="LOADTEST_LOCKS", type=int, default=4, help="Locks that are fought for.")
    add("--value-bytes", env_var="LOADTEST_VALUE_BYTES", type=int, default=255, help="Size of a value.")
    add("--key-prefix", env_var="LOADTEST_KEY_PREFIX", default="load/", help="What every key and lock begins with.")
    add("--thresholds", env_var="LOADTEST_THRESHOLDS", default=str(DEFAULT_FILE), help="The file of thresholds.")
    add("--threshold-profile", env_var="LOADTEST_PROFILE", default="", help="Its section that goes first.")
    add("--verdict", env_var="LOADTEST_VERDICT", default="", help="A file to write the verdict to, as JSON.")


@events.init.add_listener
def prepare(environment: Environment, runner: Any, **_: Any) -> None:
    """Thresholds that can't be read end it before it begins."""
    global _here  # noqa: PLW0603 - Locust has one environment a process
    _here = test = LoadTest.of(environment)
    if not test.is_worker:
        test.thresholds = load_thresholds(Path(test.options.thresholds))
    if test.is_worker:
        runner.register_message(SETTLE, lambda **_: test.settle(), concurrent=True)
    elif test.is_master:
        runner.register_message(SETTLED, lambda msg, **_: test.settled(msg.node_id, msg.data["account"]))


@events.test_start.add_listener
def on_test_start(environment: Environment, **_: Any) -> None:
    LoadTest.of(environment).begin()


@events.report_to_master.add_listener
def on_report_to_master(client_id: str, data: dict[str, Any]) -> None:
    if _here is not None:
        data["kvstore"] = _here.ledger.account()


@events.worker_report.add_listener
def on_worker_report(client_id: str, data: dict[str, Any]) -> None:
    if _here is not None and "kvstore" in data:
        _here.audit.take(client_id, data["kvstore"])


@events.test_stopping.add_listener
def on_test_stopping(environment: Environment, **_: Any) -> None:
    if (test := LoadTest.of(environment)).is_master:
        test.gather()


@events.test_stop.add_listener
def on_test_stop(environment: Environment, **_: Any) -> None:
    if not (test := LoadTest.of(environment)).is_worker:
        test.judge_correctness()


@events.quitting.add_listener
def on_quitting(environment: Environment, **_: Any) -> None:
    test = LoadTest.of(environment)
    if not test.is_worker:
        environment.runner.stop()  # if somebody interrupted it
        test.decide()


@events.quit.add_listener
def on_quit(exit_code: int, **_: Any) -> None:
    """Last on the screen, after Locust's own tables."""
    if _here is not None and _here.verdict is not None:
        show(_here.verdict)

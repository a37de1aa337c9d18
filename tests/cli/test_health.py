"""`health`, as what runs containers runs it: a program whose exit code is the answer."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cli.errors import ExitCode
from tests.cluster.harness import clean_environment, kvstore_command


@contextmanager
def node_that_says(status: int, body: str) -> Iterator[str]:
    """Something that answers /readyz so, and nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test's own output is enough."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def health(*endpoints: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        kvstore_command("health", "--endpoints", ",".join(endpoints)),
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_ready_node_is_0_and_nothing_is_said() -> None:
    with node_that_says(200, '{"status":"ready","reasons":[]}') as node:
        ended = health(node)

    assert (ended.returncode, ended.stdout, ended.stderr) == (ExitCode.DONE, "", "")


def test_one_that_is_not_ready_is_5_whoever_else_is_and_its_reasons_are_told() -> None:
    with (
        node_that_says(200, '{"status":"ready","reasons":[]}') as ready,
        node_that_says(503, '{"status":"not ready","reasons":["the node is stopping","a full disk"]}') as unready,
    ):
        ended = health(ready, unready)

    assert ended.returncode == ExitCode.NOT_APPLIED
    assert ended.stderr == f"{unready} is not ready: the node is stopping; a full disk\n"


def test_one_that_does_not_answer_is_5() -> None:
    with node_that_says(200, "") as node:
        gone = node
    ended = health(gone)

    assert ended.returncode == ExitCode.NOT_APPLIED
    assert f"{gone} is not ready: does not answer" in ended.stderr


@pytest.mark.parametrize(
    "address", ["https://127.0.0.1:7001", "http://127.0.0.1:99999", "http://n1:7001/v1", "http://"]
)
def test_what_is_no_nodes_address_is_a_mistake_of_the_caller(address: str) -> None:
    ended = health(address)

    assert ended.returncode == ExitCode.USAGE
    assert address in ended.stderr

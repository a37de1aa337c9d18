"""A request whose connection ends before the answer is sent once, and its outcome stays unknown."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest

from tests.loadtests.locust_process import ROOT

SEND = """
import sys
from loadtests.users.once_only import OnceOnlyPool
try:
    OnceOnlyPool(concurrency=2).get_client(sys.argv[1]).request(sys.argv[2], "/v1/kv/a", body=b"1")
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("method", ["PUT", "DELETE", "GET"])
def test_it_is_not_sent_again(method: str) -> None:
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    if data := connection.recv(65536):
                        heard.append(data)

        threading.Thread(target=hang_up, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", SEND, url, method], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        )
        server.shutdown(socket.SHUT_RDWR)

    assert done.stdout.strip() == "HTTPConnectionClosed"
    assert len(heard) == 1

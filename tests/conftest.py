"""For all tests."""

from __future__ import annotations

import signal

for ignored in (signal.SIGINT, signal.SIGHUP):
    # A shell that starts us in the background, or nohup, has these ignored; then so would what the tests start, and
    # a test of Ctrl-C would wait for ever.
    if signal.getsignal(ignored) == signal.SIG_IGN:
        signal.signal(ignored, signal.default_int_handler if ignored == signal.SIGINT else signal.SIG_DFL)

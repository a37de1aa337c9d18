"""Signals that come to `lock run` while a command runs under it: who sent them decides who must still get them."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable

PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Those that would end us and are meant for the command."""
_OF_THE_TERMINAL = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT})
_SI_KERNEL = 0x80  # asm-generic/siginfo.h: from the kernel itself, as a terminal's are

Heed = Callable[[signal.Signals, bool], None]
"""(the signal, whether a terminal sent it, to everyone in its foreground)"""


def take_signals(heed: Heed) -> list[signal.Signals]:
    """Calls heed on the running loop for each of those signals, to the end of this process; the signals it takes.

    One that our caller has us ignore, as nohup does, stays ignored. The signals are blocked from here on: a child must
    be told not to inherit that.
    """
    loop = asyncio.get_running_loop()
    taken = [number for number in PASSED_ON if signal.getsignal(number) != signal.SIG_IGN]
    if not hasattr(signal, "sigwaitinfo"):  # macOS: guess by the kind of signal
        for number in taken:
            loop.add_signal_handler(number, heed, number, number in _OF_THE_TERMINAL)
        return []
    signal.pthread_sigmask(signal.SIG_BLOCK, taken)

    def wait_for_them() -> None:
        while True:
            told = signal.sigwaitinfo(taken)
            try:
                loop.call_soon_threadsafe(heed, signal.Signals(told.si_signo), told.si_code == _SI_KERNEL)
            except RuntimeError:  # the loop is closed: nothing is left to interrupt
                return

    threading.Thread(target=wait_for_them, name="signals", daemon=True).start()
    return taken

"""What the first process of a container owes to the others: pass on signals, collect the dead.

A program that runs as process 1 gets no default action for signals, and nobody else waits for
orphans. So the entry point, where it is process 1, forks once: the child goes on, the parent stays
as small as it can and ends with the child's status.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

_KEPT = {signal.SIGKILL, signal.SIGSTOP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP}
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS}
"""What the kernel tells this process of its own faults; never blocked, or it would hang."""


def supervise() -> None:
    """Fork; comes back in the child alone.

    The parent sends every signal on to the child, waits for whatever dies, and exits as the child
    did: with its status, or with 128 and the number of the signal that ended it. The child is the
    foreground group of the terminal, if there is one.
    """
    watched = signal.valid_signals() - _KEPT - _FAULTS
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    child = os.fork()
    if child == 0:
        _foreground()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    for stopping in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP):
        signal.signal(stopping, signal.SIG_IGN)
    while True:
        number = signal.sigwait(watched)
        if number != signal.SIGCHLD:
            with suppress(ProcessLookupError):
                os.kill(child, number)
            continue
        status = _collect(child)
        if status is not None:
            os._exit(status)


def _foreground() -> None:
    """Put this process into a group of its own, in front of the terminal."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # or the next call would stop this process
    with suppress(OSError):
        os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)


def _collect(child: int) -> int | None:
    """Wait for all that has died; gives the child's exit status if it is among them."""
    found = None
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if process == 0:
            return found
        if process == child:
            found = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)

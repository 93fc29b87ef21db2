"""Rules: the launcher refuses processes and nothing else; the tracer sees those that start."""

import sys
from pathlib import Path

import pytest
from java_runs import run
from process_trace import no_processes, started_processes, trace

pytestmark = pytest.mark.integration("strace")


def test_refuses_processes_and_nothing_else(tmp_path: Path) -> None:
    script = (
        "import os, subprocess, threading\n"
        "thread = threading.Thread(target=print, args=('thread',))\n"
        "thread.start(), thread.join()\n"
        "for start in (os.fork, lambda: subprocess.Popen('true'),\n"
        "              lambda: os.posix_spawn('/bin/true', ['true'], {})):\n"
        "    try:\n"
        "        start()\n"
        "    except BlockingIOError:\n"
        "        print('refused', flush=True)\n"
        "os.execv('/bin/echo', ['echo', 'another program'])\n"
    )
    done = run(no_processes([sys.executable, "-c", script]), tmp_path)
    assert done.stdout.splitlines() == ["thread", *["refused"] * 3, "another program"]


def test_lists_what_was_started_and_what_was_not_found(tmp_path: Path) -> None:
    script = "/bin/true 1 '2 ]'; (exec nothere); (:); /bin/echo ä"
    log = tmp_path / "trace"
    done = run(trace(["sh", "-c", f"{script}; exit 3"], log), tmp_path)
    assert done.returncode == 3
    assert started_processes(log) == [
        ["/bin/true", "1", "2 ]"],
        ["nothere"],
        [],
        ["/bin/echo", "ä"],
    ]

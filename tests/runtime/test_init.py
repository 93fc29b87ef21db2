"""The duties of a container's first process, with a real process 1 in a namespace of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[2])
SUPERVISED = (
    "import os, sys\n"
    f"sys.path.insert(0, {ROOT!r})\n"
    "from imagekit.runtime import init\n"
    "assert os.getpid() == 1\n"
    "init.supervise()\n"
    "assert os.getpid() != 1\n"
)

pytestmark = pytest.mark.integration("unshare", root=True)


def first(code: str) -> subprocess.Popen[str]:
    """Run code as process 1 of a namespace; gives unshare, whose child it is."""
    return subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", SUPERVISED + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def child_of(process: subprocess.Popen[str]) -> int:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for _ in range(200):
        found = path.read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.02)
    raise AssertionError("unshare has no child")


@pytest.mark.parametrize("status", [0, 1, 7, 143])
def test_the_status_is_the_childs(status):
    process = first(f"raise SystemExit({status})")
    assert process.wait(30) == status
    process.communicate()


def test_a_signal_that_ends_the_child_is_128_and_its_number():
    process = first("import signal; os.kill(os.getpid(), signal.SIGKILL)")
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(number):
    process = first(
        "import signal, time\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(43))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(child_of(process), number)
    process.communicate(timeout=30)
    assert process.returncode == 43


def test_a_child_that_does_not_care_dies_by_sigterm():
    process = first("print('ready', flush=True); import time; time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(child_of(process), signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM


def test_orphans_are_collected():
    code = (
        "import time\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        os._exit(0)\n"  # its parent goes first: process 1 gets it
        "    os._exit(0)\n"
        "os.wait()\n"
        "for _ in range(100):\n"
        "    time.sleep(0.05)\n"
        "    states = []\n"
        "    for name in os.listdir('/proc'):\n"
        "        if name.isdigit():\n"
        "            with open(f'/proc/{name}/stat') as file:\n"
        "                states.append(file.read().rpartition(')')[2].split()[0])\n"
        "    if 'Z' not in states:\n"
        "        sys.exit(len(states))\n"
        "sys.exit(99)\n"
    )
    process = first(code)
    process.communicate(timeout=60)
    assert process.returncode == 2  # process 1 and its child, no zombie


def masks(status: str) -> dict[str, int]:
    return {
        name: int(mask, 16) for name, mask in re.findall(r"(Sig\w{3}):\s+([0-9a-f]{16})", status)
    }


def test_the_child_blocks_no_signal_and_ignores_none_that_was_not_ignored_before():
    process = first("print(open('/proc/self/status').read())")
    out, err = process.communicate(timeout=30)
    assert err == ""
    child, ours = masks(out), masks(Path("/proc/self/status").read_text())
    assert child["SigBlk"] == 0
    python_ignores = (1 << (signal.SIGPIPE - 1)) | (1 << (signal.SIGXFSZ - 1))
    assert child["SigIgn"] & ~(python_ignores | ours["SigIgn"]) == 0

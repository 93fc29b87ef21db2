"""Folders of secrets: whole or not at all, whatever happens on the way."""

import errno
import os
import signal
import stat
import sys
import threading
from pathlib import Path

import pytest

from imagekit.errors import InputError, UsageError
from imagekit.secrets import folder as module
from imagekit.secrets.folder import SecretFiles, check_folder, write_folder

OLD = SecretFiles({"one": b"old 1", "two": b"old 2", "gone": b"old 3"})
NEW = SecretFiles({"one": b"new 1", "two": b"new 2"})
NAMES = {*OLD, *NEW}


def content(path):
    """What a folder holds; None if it is not there."""
    return {file.name: file.read_bytes() for file in path.iterdir()} if path.exists() else None


def alone(path):
    """Whether nothing lies beside a folder."""
    return [found.name for found in path.parent.iterdir()] == [path.name]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "parent" / "keys"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_but_the_owner_gets_at_it(target, umask):
    before = os.umask(umask)
    try:
        write_folder(target, NEW, force=False)
        write_folder(target, NEW, force=True)
    finally:
        os.umask(before)
    assert content(target) == NEW
    assert mode(target) == 0o700
    assert {mode(file) for file in target.iterdir()} == {0o600}


def test_a_folder_that_is_there_is_refused_before_anything_is_made(target):
    check_folder(target, NAMES, force=False)
    target.mkdir(parents=True)
    check_folder(target, NAMES, force=False)
    (target / "two").write_bytes(b"old")
    with pytest.raises(UsageError, match="exists already, with two"):
        check_folder(target, NAMES, force=False)
    check_folder(target, NAMES, force=True)
    (target / "notes").write_bytes(b"mine")
    with pytest.raises(UsageError, match="as a whole, notes with it"):
        check_folder(target, NAMES, force=True)


def test_what_came_in_after_the_check_is_not_overwritten(target):
    check_folder(target, NAMES, force=False)
    target.mkdir(parents=True)
    (target / "notes").write_bytes(b"mine")
    with pytest.raises(UsageError, match="meanwhile"):
        write_folder(target, NEW, force=False)
    assert content(target) == {"notes": b"mine"}
    assert alone(target)


def test_force_leaves_nothing_of_the_old_folder(target):
    write_folder(target, OLD, force=False)
    write_folder(target, NEW, force=True)
    assert content(target) == NEW
    assert alone(target)


@pytest.mark.parametrize("path", [".", "..", "/"])
def test_the_current_folder_and_those_above_it_are_refused(in_folder, path):
    with pytest.raises(UsageError, match="current folder"):
        check_folder(Path(path), NAMES, force=True)


def test_a_file_in_the_way_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path / "file", tmp_path / "file" / "keys"):
        with pytest.raises(InputError, match="Not a directory") as caught:
            check_folder(path, NAMES, force=True)
        assert "a file is in the way" in caught.value.hint


def test_a_link_to_a_folder_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_folder(tmp_path / "link", NEW, force=False)
    write_folder(tmp_path / "link", NEW, force=True)
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == NEW


# -- what happens on the way


def killed_at(step, target, force):
    """Write in a child that is killed at a line of the module; gives whether it came that far."""
    pid = os.fork()
    if pid == 0:
        left = step

        def trace(frame, _event, _argument):
            nonlocal left
            if frame.f_code.co_filename != module.__file__:
                return None
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        write_folder(target, NEW, force)
        sys.settrace(None)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("force", [False, True], ids=["new", "force"])
def test_a_kill_at_any_line_leaves_the_old_files_or_the_new_ones(tmp_path, force):
    before = dict(OLD) if force else None
    seen, step = [], 0
    while True:
        target = tmp_path / str(step) / "keys"
        target.parent.mkdir()
        if force:
            write_folder(target, OLD, force=False)
        killed = killed_at(step, target, force)
        found = content(target)
        assert found in (before, NEW), step
        seen.append(found == NEW)
        check_folder(target, NAMES, force=True)
        write_folder(target, NEW, force=True)
        assert content(target) == NEW
        assert alone(target), "what the dead writer left is still there"
        if not killed:
            break
        step += 1
    assert step > 40
    assert seen == sorted(seen)
    assert not seen[0] and seen[-2]


def test_files_replaced_one_by_one_would_be_noticed(tmp_path, monkeypatch):
    """The test above can fail: this is a writer without the exchange."""

    def one_by_one(aside, target):
        for file in sorted(aside.iterdir()):
            file.rename(target / file.name)
            os.sync  # noqa: B018 - a line to be killed at

    target = tmp_path / "keys"
    found = []
    for step in range(40, 75):
        write_folder(target, OLD, force=True)
        with monkeypatch.context() as patched:
            patched.setattr(module, "_exchange", one_by_one)
            one_by_one.__code__ = one_by_one.__code__.replace(co_filename=module.__file__)
            killed_at(step, target, True)
        found.append(content(target))
    assert any(some not in (OLD, NEW) for some in found)


@pytest.mark.parametrize("name", ["_write", "_exchange", "sync_folder"])
def test_a_failing_disk_leaves_the_old_files(target, monkeypatch, name):
    write_folder(target, OLD, force=False)

    def fail(*_):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(module, name, fail)
    with pytest.raises(InputError, match="No space left"):
        write_folder(target, NEW, force=True)
    assert content(target) == OLD
    assert alone(target)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_a_file_system_that_does_not_exchange_is_said(target, monkeypatch, number):
    write_folder(target, OLD, force=False)

    def fail(*_):
        raise OSError(number, "")

    monkeypatch.setattr(module, "_exchange", fail)
    with pytest.raises(InputError, match="in one step") as caught:
        write_folder(target, NEW, force=True)
    assert "remove it yourself" in caught.value.hint
    assert content(target) == OLD


def test_a_live_writers_folder_is_left_alone(target):
    target.parent.mkdir()
    with module._aside(target.parent) as other:
        (other / "file").write_bytes(b"half")
        write_folder(target, NEW, force=False)
        assert content(other) == {"file": b"half"}
    assert alone(target)


def test_writers_at_once_leave_the_files_of_one(target):
    sets = [SecretFiles(dict.fromkeys(NAMES, b"%d" % number)) for number in range(8)]
    threads = [threading.Thread(target=write_folder, args=(target, one, True)) for one in sets]
    write_folder(target, OLD, force=False)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(target) in sets
    assert alone(target)


def test_no_representation_shows_a_content():
    assert repr(OLD) == "SecretFiles(gone, one, two)"
    assert "old" not in f"{OLD} {OLD!r} {[OLD]}"

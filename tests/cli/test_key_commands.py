"""``imagekit key``: what it prints, and that a passphrase never shows."""

import json
import subprocess
import sys

import pytest

SECRET = "correct horse"


def test_generate_and_show_agree(imagekit, in_folder):
    code, out, err = imagekit("key", "generate", "k.pem")
    assert code == 0, err
    assert out.startswith("mr_signer        : ")
    assert imagekit("key", "show", "k.pem")[1] == out
    code, text, _ = imagekit("key", "show", "k.pem", "--json")
    answer = json.loads(text)
    assert answer["schema"] == 1
    assert f"mr_signer        : {answer['mr_signer']}\n" == out
    code, _, err = imagekit("key", "generate", "k.pem")
    assert code == 2
    assert "error: k.pem: exists already" in err


def test_group_readable_keys_are_warned_of(imagekit, in_folder):
    imagekit("key", "generate", "k.pem")
    (in_folder / "k.pem").chmod(0o644)
    code, _, err = imagekit("key", "show", "k.pem")
    assert code == 0
    assert "warning: k.pem: mode 0644" in err


@pytest.mark.parametrize("source", ["file", "variable"])
def test_a_passphrase_from_a_file_or_the_environment(imagekit, in_folder, monkeypatch, source):
    flags = []
    if source == "file":
        (in_folder / "pass").write_text(SECRET + "\n")
        flags = ["--passphrase-file", "pass"]
    else:
        monkeypatch.setenv("IMAGEKIT_KEY_PASSPHRASE", SECRET)
    code, out, err = imagekit("key", "generate", "--encrypt", "k.pem", *flags)
    assert code == 0, err
    code, shown, err = imagekit("key", "show", "k.pem", *flags)
    assert (code, shown) == (0, out)
    assert SECRET not in out + err


def test_a_wrong_passphrase_is_a_signing_error_without_the_passphrase(imagekit, in_folder):
    (in_folder / "pass").write_text(SECRET)
    (in_folder / "other").write_text("something else")
    imagekit("key", "generate", "k.pem", "--passphrase-file", "pass")
    code, _, err = imagekit("key", "show", "k.pem", "--passphrase-file", "other")
    assert code == 6
    assert "cannot decrypt" in err
    assert "something else" not in err


def test_without_a_terminal_and_a_source_it_says_how(in_folder, imagekit):
    (in_folder / "pass").write_text(SECRET)
    imagekit("key", "generate", "k.pem", "--passphrase-file", "pass")
    done = subprocess.run(
        [sys.executable, "-m", "imagekit", "key", "show", "k.pem"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 6
    assert "--passphrase-file" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_prompt_is_used_in_a_terminal(in_folder, imagekit):
    import pty

    (in_folder / "pass").write_text(SECRET)
    imagekit("key", "generate", "k.pem", "--passphrase-file", "pass")
    seen = bytearray()

    def read(fd):
        import os

        data = os.read(fd, 1024)
        if b"passphrase" in data:
            os.write(fd, SECRET.encode() + b"\n")
        seen.extend(data)
        return data

    status = pty.spawn([sys.executable, "-m", "imagekit", "key", "show", "k.pem"], read)
    assert status == 0
    assert b"mr_signer" in seen
    assert SECRET.encode() not in seen

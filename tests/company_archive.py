"""A company's own servers, behind TLS that only the company's CA vouches for.

One of them has a signed package archive.
"""

import functools
import hashlib
import http.server
import os
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a package's script sees has to be the same, whoever runs it.
POSTINST = """\
#!/bin/sh
set -e
{ env | sort; umask; id; pwd; tty || true; ls /proc/self/status; } > /usr/share/company-tool
"""
_CONTROL = """\
Package: company-tool
Version: 1.0
Architecture: all
Maintainer: Nobody <nobody@company.example>
Description: what a company adds
"""


@contextmanager
def serve_folder(folder: Path, address: str, certificate: Path) -> Iterator[str]:
    """Serve a folder at an address of this machine; gives its URL.

    Args:
        folder: which.
        address: where to listen.
        certificate: the server's certificate and key (PEM).
    """
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer((address, 0), handler) as server:
        server.handle_error = lambda *_details: None  # type: ignore[method-assign]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # the handshake is left to each connection's own thread: a slow client stops no other
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"https://{address}:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serve_archive(folder: Path, address: str, certificate: Path) -> Iterator[str]:
    """Serve the archive at an address of this machine.

    Args:
        folder: an empty one; the public key goes to ``key.asc`` in it.
        address: where to listen.
        certificate: the server's certificate and key (PEM).

    Returns:
        The archive's URL; it is a flat one, with the suite ``./``.
    """
    _write(folder)
    with serve_folder(folder, address, certificate) as url:
        yield url


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_words: object) -> None:
        return


def _write(folder: Path) -> None:
    root = folder / "root" / "DEBIAN"
    root.mkdir(parents=True)
    (root / "control").write_text(_CONTROL)
    (root / "postinst").write_text(POSTINST)
    (root / "postinst").chmod(0o755)
    command = ["dpkg-deb", "--root-owner-group", "--build", root.parent, folder / "tool.deb"]
    subprocess.run(command, check=True, capture_output=True)
    deb = (folder / "tool.deb").read_bytes()
    packages = f"{_CONTROL}Filename: ./tool.deb\n{_sums(deb)}\n".encode()
    (folder / "Packages").write_bytes(packages)
    release = "Suite: company\nCodename: company\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n"
    release += f" {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    with tempfile.TemporaryDirectory(prefix="ikt-") as home:  # short: it holds a socket
        env = {**os.environ, "GNUPGHOME": home}

        def gpg(*words: str, data: str = "") -> bytes:
            command = ["gpg", "--batch", "--quiet", "--passphrase", "", *words]
            done = subprocess.run(
                command, input=data.encode(), env=env, capture_output=True, check=True
            )
            return done.stdout

        gpg("--quick-generate-key", "archive@company.example", "rsa2048", "sign", "never")
        (folder / "key.asc").write_bytes(gpg("--armor", "--export"))
        (folder / "InRelease").write_bytes(gpg("--clearsign", data=release))
        subprocess.run(["gpgconf", "--kill", "all"], env=env, check=False)


def _sums(data: bytes) -> str:
    return f"Size: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}"

"""The distribution's files: mmdebstrap makes a root from signed apt archives.

mmdebstrap works without a daemon, as root or in a user namespace, and checks what it fetches
through apt (Release signatures, then SHA-256 of every index and package).
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from imagekit.errors import EngineError, InputError
from imagekit.files import disk_error
from imagekit.images.bases.packages import WORK
from imagekit.images.bases.process import one_line, run_program
from imagekit.images.bases.recipe import FETCH, INSTALL, Ingredients, mmdebstrap_options, script
from imagekit.images.bases.trust import CA_HINT, with_system
from imagekit.images.progress import NO_PROGRESS, Progress

_KEPT_VARIABLES = (
    "HOME",
    "PATH",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)

_HINTS = (
    (
        ("Unable to locate package", "has no installation candidate", "was not found"),
        "check the names under base.packages and the components of the mirrors",
    ),
    (
        ("NO_PUBKEY", "is not signed", "EXPKEYSIG", "couldn't be verified", "no valid OpenPGP"),
        "the archive's key is missing or wrong: install the distribution's keyring package here, "
        "or correct signed_by",
    ),
    (
        ("ertificate verification failed", "certificate is NOT trusted", "No system certificates"),
        CA_HINT,
    ),
    (
        ("Could not resolve", "Could not connect", "Failed to fetch", "Cannot initiate the conn"),
        "check the network and the mirrors; behind a proxy, set http_proxy and https_proxy",
    ),
    (("No space left",), "free some space in TMPDIR (default /tmp), or set TMPDIR elsewhere"),
    (
        ("subuid", "user namespaces", "unshare", "Operation not permitted"),
        "run as root, or allow user namespaces and give this user ranges in /etc/subuid, subgid",
    ),
    (("unmet dependencies", "Depends:"), "add what is missing to base.packages"),
)


class Bootstrap(Protocol):
    """A way to make a distribution's root; :func:`bootstrap` is the one without an engine."""

    def __call__(self, ingredients: Ingredients, folder: Path, progress: Progress) -> Path:
        """See :func:`bootstrap`."""
        ...


def bootstrap(ingredients: Ingredients, folder: Path, progress: Progress = NO_PROGRESS) -> Path:
    """Make the distribution's root.

    Args:
        ingredients: what from.
        folder: an empty scratch folder.
        progress: told the steps.

    Returns:
        The root as a tar file in ``folder``, not normalised, with the lists of its packages (see
        :func:`imagekit.images.bases.packages.packages_of`).

    Raises:
        InputError: mmdebstrap is missing, or the disk refuses.
        EngineError: mmdebstrap failed; holds its last lines.
    """
    program = shutil.which("mmdebstrap")
    if program is None:
        raise InputError(
            "mmdebstrap is not installed, and nothing else here assembles a distribution",
            "sudo apt-get install mmdebstrap, or take --engine docker",
        )
    spec = ingredients.spec
    folder = folder.absolute()  # mmdebstrap runs in there
    target = folder / "root.tar"
    files = {FETCH: script(FETCH), INSTALL: script(INSTALL), **ingredients.apt_sources()}
    _write(folder, files)
    with _ca_file(ingredients, folder) as ca_file:
        argv = [
            *_own_mounts(),
            program,
            *mmdebstrap_options(
                ingredients,
                folder=str(folder),
                debs=[str(deb.absolute()) for deb in ingredients.debs],
                ca_file=ca_file,
            ),
            f"--customize-hook={_install(ingredients)}",
            "--format=tar",
            spec.distribution.suite,
            str(target),
            *spec.distribution.mirrors,
        ]
        env = _environment(ingredients.epoch, folder)
        with _Steps(spec.distribution.suite, progress) as steps:
            done = run_program(argv, env=env, folder=folder, on_line=steps.line)
    if done.code != 0:
        raise _failure(done.code, done.tail)
    return target


def package_hint(text: str) -> str | None:
    """Give what to do about a failure of apt, dpkg or mmdebstrap, by what they said."""
    return next((hint for signs, hint in _HINTS if any(sign in text for sign in signs)), None)


def _install(ingredients: Ingredients) -> str:
    """Give the hook that runs the second step in the new root."""
    return " ".join(["chroot", '"$1"', "/bin/sh", f"/{WORK}/{INSTALL}", *ingredients.late_packages])


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        try:
            (folder / name).write_bytes(data)
        except OSError as error:
            raise disk_error(error, folder / name, "write") from None


@contextmanager
def _ca_file(ingredients: Ingredients, folder: Path) -> Iterator[str | None]:
    """Give a file with the certificates to be trusted while the body runs, None for the system's.

    In a user namespace apt reads nothing below a closed home folder: there it stands in TMPDIR.
    """
    if ingredients.ca_bundle is None:
        yield None
        return
    parent = folder if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="imagekit-ca-", dir=parent) as place:
        path = Path(place) / "ca.pem"
        _write(path.parent, {path.name: with_system(ingredients.ca_bundle)})
        path.parent.chmod(0o755)
        path.chmod(0o644)
        yield str(path)


def _environment(epoch: int, folder: Path) -> dict[str, str]:
    """Give only what may matter: package scripts must not see the caller's other variables."""
    names = {*_KEPT_VARIABLES, *(name.upper() for name in _KEPT_VARIABLES)}
    env = {name: value for name, value in os.environ.items() if name in names}
    path = env.get("PATH") or os.defpath
    env["PATH"] = f"{path}:/usr/sbin:/sbin"
    if "TMPDIR" not in env and os.geteuid() == 0:
        # what a killed mmdebstrap leaves is then removed with our folder by the next run; in a user
        # namespace it could not get there, a home folder being closed to the namespace's users
        env["TMPDIR"] = str(folder)
    env.update(LC_ALL="C.UTF-8", TZ="UTC", SOURCE_DATE_EPOCH=str(epoch))
    return env


def _own_mounts() -> list[str]:
    """Give the command prefix that keeps mmdebstrap's mounts to itself, where root may do so.

    In a mount namespace of its own everything it mounts goes away with it, even when it is killed.
    In a user namespace (not root) that is so anyway.
    """
    prefix = ["unshare", "--mount", "--propagation=private", "--"]
    if os.geteuid() != 0 or shutil.which(prefix[0]) is None:
        return []
    probe = subprocess.run([*prefix, "true"], check=False, capture_output=True)
    return prefix if probe.returncode == 0 else []


class _Steps:
    """Shows mmdebstrap's "I: …" lines as one task after the other."""

    def __init__(self, suite: str, progress: Progress) -> None:
        self.suite, self.progress, self.stack = suite, progress, ExitStack()

    def __enter__(self) -> "_Steps":
        return self

    def __exit__(self, *_details: object) -> None:
        self.stack.close()

    def line(self, text: str) -> None:
        if not text.startswith("I: "):
            return
        label = "".join(c for c in text[3:].removesuffix("...") if c.isprintable())[:80]
        if f"{WORK}/{FETCH}" in text:
            label = "downloading packages"
        elif f"{WORK}/{INSTALL}" in text and "chroot" in text:
            label = "installing packages"
        elif not text.endswith("..."):
            return
        self.stack.close()
        self.stack.enter_context(self.progress.task(f"{self.suite}: {label}", None))


def _failure(code: int, tail: Sequence[str]) -> EngineError:
    errors = []
    for before, line in zip(["", *tail], tail, strict=False):
        if line.startswith(("E: ", "Err:", "dpkg: error")):
            # the line before dpkg's own says why a package's script failed
            errors += [before, line] if line.startswith("dpkg: error") and before else [line]
        elif before.startswith("Err:") and line.startswith("  "):
            errors.append(line)  # why apt could not fetch
    # mmdebstrap's own last words only say that something failed
    telling = [line for line in errors if "mmdebstrap" not in line and " failed: " not in line]
    hint = package_hint("\n".join(tail)) or (
        "run `mmdebstrap SUITE /dev/null` by hand to see everything it says"
    )
    said = one_line((telling or errors or list(tail))[-3:])
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    return EngineError(f"mmdebstrap failed ({ended}): {said}", hint)

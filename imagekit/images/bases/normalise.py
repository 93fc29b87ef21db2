"""What is left out of or rewritten in a distribution's files, so that two builds give equal bytes.

mmdebstrap with SOURCE_DATE_EPOCH is reproducible for the packages' own files. What package scripts,
apt, dpkg and Java leave behind is not: it holds times, random ids, names of the building machine or
caches that depend on it. Every rule below says why it is there.
"""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from imagekit.images.bases.jks import rewrite_truststore

EMPTIED = (
    "/dev",  # device nodes exist only in builds by root; every runtime mounts its own /dev
    "/proc",
    "/run",
    "/sys",
    "/tmp",  # noqa: S108
    "/var/tmp",  # noqa: S108
    "/var/log",  # times, and the names of the building machine
    "/var/backups",  # copies of dpkg's state, made by a daily job
    "/var/cache/apt",  # the .deb files and an index that holds the lists' times
    "/var/lib/apt/lists",  # the archive's indexes, which change daily
    "/var/cache/fontconfig",  # holds the fonts' directory times and the machine's byte order
    "/var/cache/man",  # an index of manual pages with times
    "/var/cache/ldconfig",  # aux-cache holds inode numbers and change times
)
"""Folders that are kept, without anything in them."""

DROPPED = (
    "/etc/hostname",  # the building machine's name
    "/etc/resolv.conf",  # the building machine's name servers
    "/etc/hosts",  # the building machine's, or an empty file where an engine mounts its own
    "/etc/machine-id",  # random, and must be unique per machine
    "/var/lib/dbus/machine-id",
    "/etc/.pwd.lock",  # empty lock files that appear or not
    "/var/lib/dpkg/lock",
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/triggers/Lock",
    "/etc/apt/apt.conf.d/99mmdebstrap",  # options of this build, not of the image
    "/etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "/etc/passwd-",  # the state before the last package script ran
    "/etc/group-",
    "/etc/shadow-",
    "/etc/gshadow-",
    "/etc/subuid-",
    "/etc/subgid-",
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
    "/etc/ssl/private/ssl-cert-snakeoil.key",  # made at install time: random, and nobody's key
    "/etc/ssl/certs/ssl-cert-snakeoil.pem",
)
"""Single files that are left out."""

DROPPED_PATTERNS = (
    "/var/lib/dpkg/*-old",  # the state before the last package was installed
    "/var/cache/debconf/*-old",
    "*.jsa",  # class data archives, dumped at install time: laid out for that machine's memory
    "*/__pycache__",  # holds the sources' times, which are all set to one; Python does without
    "*/__pycache__/*",
    "*.pyc",
    "/etc/ssh/ssh_host_*",  # host keys, made at install time
)
"""Shell patterns (``*`` also matches ``/``) of what is left out."""

TRUSTSTORES = ("/etc/ssl/certs/java/cacerts", "/etc/pki/java/cacerts")
"""Java truststores: times and hash order, rewritten by :mod:`imagekit.images.bases.jks`."""

SOURCES = "/etc/apt/sources.list"
SHADOW = "/etc/shadow"
AUTOMATIC = "/var/lib/apt/extended_states"

_AUTOMATIC_KEY = re.compile(r'^deb \[signed-by="/usr/share/keyrings/[^"\]]+"\] ', re.MULTILINE)


@dataclass(frozen=True)
class Normaliser:
    """Decides about each path of a distribution's tar.

    Attributes:
        epoch: seconds since 1970, for the times inside rewritten files.
        exclude: absolute shell patterns of the user; ``*`` also matches ``/``.
    """

    epoch: int
    exclude: Sequence[str] = ()

    def keep(self, path: str) -> bool:
        """Say whether the member at the absolute ``path`` belongs into the layer."""
        if path in DROPPED:
            return False
        if any(path.startswith(folder + "/") for folder in EMPTIED):
            return False
        patterns = (*DROPPED_PATTERNS, *self.exclude)
        return not any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)

    def rewrites(self, path: str) -> bool:
        """Say whether :meth:`rewrite` has to see the content of the file at ``path``."""
        return path in TRUSTSTORES or path in (SOURCES, SHADOW, AUTOMATIC)

    def rewrite(self, path: str, data: bytes) -> bytes:
        """Give the content that belongs into the layer.

        Raises:
            InputError: a truststore that cannot be read.
        """
        if path in TRUSTSTORES:
            return rewrite_truststore(data, self.epoch, path)
        if path == SOURCES:
            # Whether mmdebstrap adds the keyring's path depends on the keys the building machine
            # trusts; inside the image the archive's keyring package vouches for them anyway.
            text = data.decode("utf-8", "surrogateescape")
            return _AUTOMATIC_KEY.sub("deb ", text).encode("utf-8", "surrogateescape")
        if path == SHADOW:
            return self._shadow(data)
        if path == AUTOMATIC:
            # which packages came in as dependencies; apt writes them in the order of a hash table
            stanzas = sorted(stanza for stanza in data.strip(b"\n").split(b"\n\n") if stanza)
            return b"".join(stanza + b"\n\n" for stanza in stanzas)
        return data

    def _shadow(self, data: bytes) -> bytes:
        """Set the day of each password change; old versions of shadow take today's."""
        day = b"%d" % (self.epoch // 86400)
        lines = [line.split(b":") for line in data.split(b"\n")]
        for fields in lines:
            if len(fields) > 2 and fields[2].isdigit():
                fields[2] = day
        return b"\n".join(b":".join(fields) for fields in lines)

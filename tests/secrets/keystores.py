"""Java's keytool, for tests of keystores."""

import subprocess
from pathlib import Path

PASSWORD = "only-for-tests"
TYPES = (("-storetype", "JKS"), ("-storetype", "PKCS12"), ())
"""How a program may ask for a store."""


def keytool(home: Path, *words: str | Path, password: str = PASSWORD) -> tuple[int, str]:
    """Run keytool of a Java; gives its status and what it says."""
    command = [home / "bin" / "keytool", "-J-Duser.language=en", *words, "-storepass", password]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stdout + done.stderr

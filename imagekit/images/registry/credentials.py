"""Who we are at a registry, as Docker's ``config.json`` and credential helpers know it.

docker-py reads them (``docker.auth``). What it does quietly is done here with a word: it takes a
damaged file for an empty one, and where ``DOCKER_CONFIG`` names a folder without the file it takes
another file.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from imagekit.errors import InputError
from imagekit.files import disk_error

_HIDDEN = "IMAGEKIT_KEY_PASSPHRASE"
"""A secret that helpers need not know; docker-py can blank a variable, not take it away."""


@dataclass(frozen=True)
class Credentials:
    """What a registry may be shown.

    Attributes:
        user: the user's name; empty with an identity token.
        secret: the password, or the identity token.
        is_token: whether it is an identity token (an OAuth 2 refresh token).
        source: the file or helper they came from.
    """

    user: str
    secret: str = field(repr=False)
    is_token: bool
    source: str

    @property
    def who(self) -> str:
        """Whose they are and where they came from, for people."""
        name = "an identity token" if self.is_token else f"user {self.user!r}"
        return f"{name} from {self.source}"


def find_credentials(host: str) -> Credentials | None:
    """Give the credentials for a registry, or None where nobody has logged in to it.

    Args:
        host: the registry as references name it, ``docker.io`` for Docker Hub.

    Raises:
        InputError: the configuration or the credential helper it names is unusable.
    """
    path = _config_file()
    value = _read(path) if path else {}
    known = {key: value[key] for key in ("auths", "credsStore", "credHelpers") if value.get(key)}
    if not known or path is None:
        return None
    from docker.auth import AuthConfig
    from docker.errors import DockerException

    try:
        config = AuthConfig.load_config(None, known, {_HIDDEN: ""})
        helper = config.get_credential_store(host)
    except (DockerException, ValueError, TypeError, AttributeError):
        raise InputError(
            f"{path}: the entries for registries cannot be understood",
            "correct the file, or log in anew with: docker login",
        ) from None
    source = f"docker-credential-{helper}" if helper else str(path)
    if helper and shutil.which(source) is None:
        raise InputError(
            f"{path} names the credential helper {source}, which is not on PATH",
            f"install it, or take it out of {path}",
        )
    try:
        found = config.resolve_authconfig(host)
    except (DockerException, ValueError, LookupError, TypeError, AttributeError, OSError):
        # The helper's words are not repeated: some print what they were asked for.
        raise InputError(
            f"{source} gives no credentials for {host}: it failed",
            f"log in anew with: docker login {host}",
        ) from None
    return _credentials(found or {}, source if "ServerAddress" in (found or {}) else str(path))


def _credentials(found: dict[str, object], source: str) -> Credentials | None:
    # docker-py spells the keys in lower case for what stands in the file.
    token = found.get("IdentityToken")
    if isinstance(token, str) and token:
        return Credentials("", token, True, source)
    user = found.get("Username") or found.get("username")
    secret = found.get("Password") or found.get("password")
    if isinstance(user, str) and isinstance(secret, str) and user:
        return Credentials(user, secret, False, source)
    return None


def _config_file() -> Path | None:
    named = os.environ.get("DOCKER_CONFIG")
    if named:
        path = Path(named) / "config.json"
        return path if path.exists() else None
    from docker.utils.config import find_config_file

    found = find_config_file()
    return Path(str(found)) if found else None


def _read(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise disk_error(error, path, "read") from None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path} is not JSON as Docker writes it", "correct or remove the file")
    return value

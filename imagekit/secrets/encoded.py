"""What ``secrets password`` writes: a password as BigDL's jobs read it.

They take it from two files by one line of openssl,
``openssl rsautl -inkey key.txt -decrypt < output.bin``. Key and ciphertext travel together, so this
encodes the password and does not protect it: whoever has the folder has the password.
"""

from typing import TYPE_CHECKING

from imagekit.secrets.certificates import key_pem, new_key
from imagekit.secrets.folder import SecretFiles
from imagekit.secrets.kubernetes import secret

if TYPE_CHECKING:
    from imagekit.secrets.passwords import Password

PASSWORD_SECRET = "ssl-password"  # noqa: S105 - the name of a Secret
SPARK_SECRET = "spark-secret"  # noqa: S105
SPARK_KEY = "secret"
"""Of the Secret; BigDL's confs say ``spark-secret:secret``."""
PASSWORD_KEYS = ("key.txt", "output.bin")
PASSWORD_YAML = "password.yaml"  # noqa: S105
SPARK_YAML = "spark-secret.yaml"
NAMES = (*PASSWORD_KEYS, PASSWORD_YAML, SPARK_YAML)

_BITS = 2048


def encoded(password: "Password", namespace: str | None) -> SecretFiles:
    """Make the two files and the Secrets with them and with the password itself.

    The newline behind the password is what ``echo`` put there; a shell's ``$(…)`` takes it off.
    """
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    key = new_key(_BITS)
    sealed = key.public_key().encrypt(password.reveal() + b"\n", PKCS1v15())
    files = SecretFiles(zip(PASSWORD_KEYS, (key_pem(key), sealed), strict=True))
    files[PASSWORD_YAML] = secret(PASSWORD_SECRET, files, namespace)
    files[SPARK_YAML] = secret(SPARK_SECRET, {SPARK_KEY: password.reveal()}, namespace)
    return files

"""What the tests of ``imagekit kms`` share: a running service, an account, an image of our own."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attestation_service import Service, start_service
from registry_parts import Certificates

from imagekit.signing.keyfile import generate_key

IMAGEKIT = (sys.executable, "-m", "imagekit")
MR_ENCLAVE, MR_SIGNER = "ab" * 32, "cd" * 32
GIVEN = ("--mr-enclave", MR_ENCLAVE, "--mr-signer", MR_SIGNER)


@pytest.fixture
def service(certificates: Certificates) -> Iterator[Service]:
    """eHSM and BigDL's service, with TLS."""
    with start_service(certificates) as started:
        yield started


@pytest.fixture
def account(service: Service, in_folder: Path) -> Path:
    """An account file in the current folder."""
    return write_account(in_folder / "account.json", service)


def write_account(path: Path, service: Service, kind: str = "ehsm") -> Path:
    """Write an account file by hand, not by the code that is tested."""
    tenants = service.ehsm.tenants if kind == "ehsm" else service.bigdl.accounts
    app_id, api_key = next(iter(tenants.items()))
    document = {
        "schema": 1,
        "service": kind,
        "url": service.address,
        "app_id": app_id,
        "api_key": api_key,
        "pin_sha256": service.pin,
        "server_name": "",
    }
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session")
def own_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signing key that nobody else has."""
    path = tmp_path_factory.mktemp("key") / "key.pem"
    generate_key(path)
    return path


@pytest.fixture
def built(project: Path, own_key: Path, imagekit: Callable[..., Any]) -> Path:
    """A project whose whole matrix is built with a key of its own."""
    (project / "key.pem").write_bytes(own_key.read_bytes())
    code, _, err = imagekit("build", "--all")
    assert code == 0, err
    return project


def command(*arguments: object, **more: Any) -> "subprocess.CompletedProcess[str]":
    """Run imagekit in a process of its own."""
    argv = [*IMAGEKIT, *(str(one) for one in arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, **more)

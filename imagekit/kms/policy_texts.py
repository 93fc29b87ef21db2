"""Policies for services that imagekit does not talk to, as text for their own tools.

Each demands the exact enclave, by its signer and version too, and refuses a debug one. Intel's own
samples say the opposite in two places (``default … = true``, debuggable); they are not followed.
"""

from collections.abc import Callable
from typing import NamedTuple

FORMATS = ("ita", "maa", "marblerun", "ra-tls")


class Enclave(NamedTuple):
    """What a policy demands.

    Attributes:
        mr_enclave, mr_signer: 64 lower-case hex digits.
        isv_prod_id: exactly this.
        isv_svn: at least this.
    """

    mr_enclave: str
    mr_signer: str
    isv_prod_id: int
    isv_svn: int


def policy_text(form: str, enclave: Enclave, name: str) -> str:
    """Write a policy.

    Args:
        form: one of :data:`FORMATS`.
        enclave: what it demands.
        name: what it is for, letters, digits, ``-``, ``_`` and ``.``; only MarbleRun's has one.
    """
    writers: dict[str, Callable[[Enclave, str], str]] = {
        "ita": _ita,
        "maa": _maa,
        "marblerun": _marblerun,
        "ra-tls": _ra_tls,
    }
    return writers[form](enclave, name)


def _ita(enclave: Enclave, _name: str) -> str:
    """Intel Trust Authority, policy version 2: Rego."""
    return f"""import rego.v1

default matches_sgx_policy := false

matches_sgx_policy if {{
	input.sgx_mrenclave == "{enclave.mr_enclave}"
	input.sgx_mrsigner == "{enclave.mr_signer}"
	input.sgx_isvprodid == {enclave.isv_prod_id}
	input.sgx_isvsvn >= {enclave.isv_svn}
	input.sgx_is_debuggable == false
}}
"""


def _maa(enclave: Enclave, _name: str) -> str:
    """Azure Attestation, policy version 1.0; the same conditions, then a permit."""
    return f"""version= 1.0;
authorizationrules
{{
    [ type=="x-ms-sgx-is-debuggable", value==false ]
    && [ type=="x-ms-sgx-mrenclave", value=="{enclave.mr_enclave}" ]
    && [ type=="x-ms-sgx-mrsigner", value=="{enclave.mr_signer}" ]
    && [ type=="x-ms-sgx-product-id", value=={enclave.isv_prod_id} ]
    && [ type=="x-ms-sgx-svn", value>={enclave.isv_svn} ]
    => permit();
}};
"""


def _marblerun(enclave: Enclave, name: str) -> str:
    """MarbleRun: a package of a manifest. UniqueID is mr_enclave, SignerID mr_signer."""
    import json

    package = {
        "UniqueID": enclave.mr_enclave,
        "SignerID": enclave.mr_signer,
        "ProductID": enclave.isv_prod_id,
        "SecurityVersion": enclave.isv_svn,
        "Debug": False,
    }
    return json.dumps({"Packages": {name: package}}, indent=2) + "\n"


def _ra_tls(enclave: Enclave, _name: str) -> str:
    """Gramine's RA-TLS: variables of the verifier, which refuses debug enclaves unasked."""
    return (
        f"RA_TLS_MRENCLAVE={enclave.mr_enclave}\n"
        f"RA_TLS_MRSIGNER={enclave.mr_signer}\n"
        f"RA_TLS_ISV_PROD_ID={enclave.isv_prod_id}\n"
        f"RA_TLS_ISV_SVN={enclave.isv_svn}\n"
    )

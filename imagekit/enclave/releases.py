"""What differs between the Gramine releases that imagekit knows, as data.

Everything else (page layout, record formats, TCS and TLS offsets, SIGSTRUCT) is the same in Gramine
1.0 to 1.9.
"""

from dataclasses import dataclass

from imagekit.errors import UsageError


@dataclass(frozen=True)
class Release:
    """One set of rules.

    Attributes:
        name: the release, as in ``--gramine-version``.
        threads_key: the key below ``sgx`` that holds the number of threads.
        base_follows_size: whether an enclave without ``sgx.nonpie_binary = true`` is based at its
            own size instead of 0, with free memory from offset 0 (up to Gramine 1.4).
        bcd_date: whether the SIGSTRUCT date is BCD, as the Intel SDM says (since 1.5).
        expands_early: whether gramine-manifest expands trusted files already (since 1.8).
        default_edmm_size: ``sgx.enclave_size`` when it is not given and EDMM is on.
    """

    name: str
    threads_key: str
    base_follows_size: bool
    bcd_date: bool
    expands_early: bool
    default_edmm_size: str


GRAMINE_1_3 = Release("1.3", "thread_num", True, False, False, "256M")
GRAMINE_1_9 = Release("1.9", "max_threads", False, True, True, "1024G")

RELEASES = {release.name: release for release in (GRAMINE_1_3, GRAMINE_1_9)}
NEWEST = GRAMINE_1_9


def release_named(name: str) -> Release:
    """Give the rules of a release by its name (``1.9``, also ``1.9.0`` or ``v1.9``).

    Raises:
        UsageError: no rules for that release are known.
    """
    short = ".".join(name.removeprefix("v").split(".")[:2])
    if short not in RELEASES:
        raise UsageError(
            f"Gramine release {name!r} is not known", f"known releases: {', '.join(RELEASES)}"
        )
    return RELEASES[short]

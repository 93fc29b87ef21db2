"""Paths that belong to one pod or one machine, and so never go into an enclave's tree.

With any of them in it, each pod would have a measurement of its own, and each would have to be
registered by itself: whoever can start a pod could have anything registered.
"""

import posixpath

FROM_ENGINE = frozenset(
    (
        *("/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf"),
        *("/run/secrets", "/var/run/secrets", "/.dockerenv", "/run/.containerenv"),
    )
)
"""What an engine puts into each container that it starts, whatever the image has there."""
_FROM_KERNEL = ("/dev", "/proc", "/sys")
_FROM_POD = frozenset(
    (
        *("/root/.kube", "/opt/k8s", "/etc/kubernetes"),
        *("/etc/machine-id", "/var/lib/dbus/machine-id"),
    )
)

# In the tree these two are something else: the launcher's file, and a folder that stays empty.
REFUSED_PATHS = (FROM_ENGINE | _FROM_POD) - {"/etc/hosts"}
"""What must not be in a tree that is about to be built."""

_ALL = FROM_ENGINE | _FROM_POD | frozenset(_FROM_KERNEL)


def pod_path_at(path: str) -> str | None:
    """Give the path of a pod or machine that a path is or lies below; None if there is none."""
    return next((own for own in sorted(_ALL) if f"{path}/".startswith(f"{own}/")), None)


def pod_paths_below(folder: str) -> list[tuple[str, bool]]:
    """Give the paths of a pod or machine below a folder, sorted.

    Returns:
        Each with whether every container has it; the others count if the image has them.
    """
    top = folder if folder.endswith("/") else f"{folder}/"
    always = FROM_ENGINE | frozenset(_FROM_KERNEL)
    return [(path, path in always) for path in sorted(_ALL) if path.startswith(top)]


def is_normal(path: str) -> bool:
    """Tell whether a path is absolute and has no detour."""
    return path.startswith("/") and posixpath.normpath(path) == path

"""``build --cross-check``: the base's own tools measure a cell, too, and must agree.

The base's ``gramine-manifest`` and ``gramine-sgx-sign`` are run in a throw-away container without a
network, with a key that is made for this one run: mr_enclave does not depend on the key, and the
user's own is never there.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from imagekit.enclave.sigstruct import SigStruct, parse_sigstruct
from imagekit.errors import CheckError, EngineError, InputError
from imagekit.images.daemon.borrowed import BorrowedEngine
from imagekit.images.daemon.containers import ThrowAway
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.release.cell import generated
from imagekit.release.configuration import Rendered
from imagekit.release.difference import file_difference, manifest_differences
from imagekit.release.gramine_base import GramineBase
from imagekit.release.signing import SignedEnclave
from imagekit.signing.keyfile import throw_away_key

_FOLDER = "/imagekit-cross-check"
_MANIFEST = f"{_FOLDER}/bash.manifest"
_NAMES = ("imagekit", "the base's tools")


class CrossCheck(AbstractContextManager["CrossCheck"]):
    """Compares measurements with those of the base's own tools, in a container engine.

    Args:
        base: the base; it is loaded into the engine.
        progress: told how far it is.

    Raises:
        InputError: the base has a stand-in, whose tools measure nothing.
        EngineError: no engine, or it does not take the base.
    """

    def __init__(self, base: GramineBase, progress: Progress = NO_PROGRESS) -> None:
        if base.standin:
            raise InputError(
                "--cross-check cannot be done: the base holds a stand-in for Gramine, which has no "
                "tools that measure",
                "leave --cross-check out, or take a base with the real Gramine",
            )
        self._base, self._progress = base, progress
        self._engine = BorrowedEngine(base.image, "imagekit-cross-check", progress)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._engine.__exit__(kind, error, trace)

    def __call__(self, rendered: Rendered, signed: SignedEnclave) -> None:
        """Compare one cell.

        Raises:
            CheckError: the base's tools give another mr_enclave, or other attributes.
            EngineError: they failed.
            InputError: the base does not have them.
        """
        cell = rendered.cell.id
        with (
            self._progress.task(f"cross-checking {cell}", None),
            ThrowAway(self._engine.daemon, self._engine.image_id) as container,
        ):
            container.put(self._files(rendered))
            self._run(container, "gramine-manifest", [f"{_MANIFEST}.template", _MANIFEST], cell)
            key = ["--key", f"{_FOLDER}/key.pem"]
            files = ["--manifest", _MANIFEST, "--output", f"{_MANIFEST}.sgx"]
            self._run(container, "gramine-sgx-sign", [*key, *files], cell)
            sigfile = f"{_FOLDER}/bash.sig"
            theirs = parse_sigstruct(container.get(sigfile), sigfile)
            differences = _attributes(signed.sigstruct, theirs)
            if theirs.body.mr_enclave == signed.sigstruct.body.mr_enclave and not differences:
                return
            differences += manifest_differences(
                signed.manifest, container.get(f"{_MANIFEST}.sgx"), _NAMES, self._base.release
            )
            pal = self._base.gramine.libpal
            differences += file_difference(pal, self._base.pal.data, container.get(pal), _NAMES)
        raise CheckError(
            f"{cell}: the base's own tools measure {theirs.body.mr_enclave.hex()}, imagekit "
            f"{signed.mr_enclave}: "
            + ("; ".join(differences) or "manifest and PAL are the same, the rules are not"),
            f"nothing was written; is the base's Gramine really {self._base.release.name} "
            f"({self._base.release_origin})? gramine.version in the project file says whose rules",
        )

    def _files(self, rendered: Rendered) -> dict[str, tuple[bytes, int]]:
        return {
            **{file.path: (generated(file), file.mode) for file in rendered.files},
            f"{_MANIFEST}.template": (rendered.source, 0o644),
            f"{_FOLDER}/key.pem": (throw_away_key(), 0o600),
        }

    def _run(self, container: ThrowAway, program: str, arguments: Sequence[str], cell: str) -> None:
        # The tools are Python: what they leave behind would be among the files they look at.
        done = container.run([program, *arguments], env={"PYTHONDONTWRITEBYTECODE": "1"})
        if done.code in (126, 127):
            raise InputError(
                f"--cross-check cannot be done: the base has no {program} that runs",
                "leave --cross-check out, or install the package gramine in the base",
            )
        if done.code != 0:
            raise EngineError(
                f"{cell}: {program} of the base failed ({done.code}): {done.last_lines}",
                "the base's Gramine may be another release: see gramine.version",
            )


def _attributes(ours: SigStruct, theirs: SigStruct) -> list[str]:
    """Give the signed fields beside mr_enclave that differ; the key and the date always may."""
    found = []
    for field in ("flags", "xfrm", "xfrm_mask", "misc_select", "isv_prod_id", "isv_svn"):
        left, right = getattr(ours.body, field), getattr(theirs.body, field)
        if left != right:
            found.append(f"SIGSTRUCT {field} is {left:#x} ({_NAMES[0]}), {right:#x} ({_NAMES[1]})")
    return found

"""What all commands of ``imagekit secrets`` do around what each of them makes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagekit.cli.ui import ui

if TYPE_CHECKING:
    from imagekit.secrets.folder import SecretFiles
    from imagekit.secrets.passwords import Password

PASSWORD_FILE = "password.txt"  # noqa: S105 - the name of a file
"""Where ``--generate`` leaves the password."""


@dataclass
class Job:
    """A run of such a command: look whether the folder can be written, make, write, tell.

    Attributes:
        output: the folder.
        force: replace what the command made before.
        dry_run: make and write nothing.
        json: answer as JSON.
        namespace: of the Kubernetes objects.
    """

    output: Path
    force: bool
    dry_run: bool
    json: bool
    namespace: str | None

    def check(self, *possible: str) -> None:
        """Look at the folder and the namespace, before anything is asked for or made."""
        from imagekit.secrets.folder import check_folder
        from imagekit.secrets.kubernetes import check_label

        if self.namespace is not None:
            check_label("--namespace", self.namespace)
        check_folder(self.output, possible, self.force)

    def finish(
        self, names: Sequence[str], make: "Callable[[], SecretFiles]", facts: dict[str, Any]
    ) -> None:
        """Make the files and write them; a dry run names them only."""
        from imagekit.secrets.folder import write_folder

        if not self.dry_run:
            files = make()
            write_folder(self.output, files, self.force)
            names = list(files)
        paths = [str(self.output / name) for name in sorted(names)]
        if self.json:
            answer = {"dry_run": self.dry_run, "namespace": self.namespace, "files": paths}
            ui.json({"folder": str(self.output), **answer, **facts})
            return
        ui.say("would be written, mode 0600:" if self.dry_run else "written, mode 0600:")
        ui.result("\n".join(paths))

    def with_password(
        self,
        names: Sequence[str],
        source: tuple[Path | None, bool, str],
        make: "Callable[[Password], SecretFiles]",
        facts: dict[str, Any],
    ) -> None:
        """Do the same for files that hold a password, or are locked by one.

        Args:
            names: of the files.
            source: what :func:`imagekit.cli.passphrases.new_password` takes.
            make: makes them.
            facts: for the answer; `make` may add to it.
        """
        from imagekit.cli.passphrases import new_password

        generate = source[1]
        # a password that is not made anew is nobody's to remove
        self.check(*names, *([PASSWORD_FILE] if generate else []))

        def files() -> "SecretFiles":
            password = new_password(*source)
            made = make(password)
            if generate:
                made[PASSWORD_FILE] = password.reveal() + b"\n"
            return made

        self.finish([*names, *([PASSWORD_FILE] if generate else [])], files, facts)
        if generate and not self.dry_run:
            ui.say(f"the password is in {self.output / PASSWORD_FILE} and is shown nowhere")

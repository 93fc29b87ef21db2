"""Containers that are thrown away: files in, programs run, files out, no network."""

import posixpath
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import docker
from docker.errors import APIError, NotFound

from imagekit.errors import EngineError, InputError
from imagekit.images.bases.process import one_line
from imagekit.images.daemon.connect import Daemon
from imagekit.images.tarread import TarReader
from imagekit.images.tarwrite import END, REGULAR, Member, header, padding

LABEL = "io.imagekit.throwaway"
"""The label of these containers."""

T = TypeVar("T")

_TAIL_BYTES = 16_384
_SHOWN_LINES = 5
_FILE_LIMIT = 256 << 20
_LINKS = 8
_REMOVAL_TRIES, _REMOVAL_PAUSE = 300, 0.05
_LINK_BIT = 1 << 27  # Go's fs.ModeSymlink, in the header X-Docker-Container-Path-Stat


class Ran(NamedTuple):
    """How a program ended: its exit code, and the end of its output."""

    code: int
    output_tail: str

    @property
    def last_lines(self) -> str:
        """The last lines of the output as one."""
        lines = [line for line in self.output_tail.splitlines() if line.strip()]
        return one_line(lines[-_SHOWN_LINES:])


class ThrowAway(AbstractContextManager["ThrowAway"]):
    """A container of an image, as root, without a network, mounts and most capabilities.

    It waits for the end of its standard input, which this process holds open: when the process
    dies, however it does, the container ends, and the engine removes it. Leaving the context
    removes it with its volumes.

    Args:
        daemon: the engine.
        image: the image's name or id; /bin/sh must be in it.
        capabilities: of its root, without ``CAP_``; by default it may read and write what others
            own, no more.
    """

    def __init__(
        self, daemon: Daemon, image: str, capabilities: Sequence[str] = ("DAC_OVERRIDE",)
    ) -> None:
        self._daemon, self._image, self._capabilities = daemon, image, list(capabilities)
        self._name = f"imagekit-{secrets.token_hex(8)}"
        self._stack = ExitStack()
        self._stdin: object = None

    def __enter__(self) -> "ThrowAway":
        try:
            with self._talk("start a container"):
                # what this client holds open stays open until the end
                client = self._stack.enter_context(self._talk("hold the container"))
                self._stack.callback(self._remove)  # before: a creation cut off may have worked
                self._create(client)
                self._stdin = client.attach_socket(self._name, {"stdin": 1, "stream": 1})
                client.start(self._name)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def put(self, files: Mapping[str, tuple[bytes, int]]) -> None:
        """Put files into the container, owned by root; folders are made where missing.

        Args:
            files: absolute path to content and mode.

        Raises:
            EngineError: the engine refuses.
        """
        tar = bytearray()
        for path, (data, mode) in sorted(files.items()):
            name = path.lstrip("/").encode()
            tar += header(Member(name, REGULAR, len(data), mode)) + data + padding(len(data))
        with self._talk("put files into the container") as client:
            client.put_archive(self._name, "/", bytes(tar) + END)

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Ran:
        """Run a program to its end.

        Args:
            argv: program and arguments, without a shell.
            env: variables to add to the image's own; no secrets.

        Returns:
            Its exit code (126 or 127 if it cannot be started) and the end of its output.

        Raises:
            EngineError: the engine failed.
        """
        with self._talk(f"run {argv[0]}", patient=True) as client:
            made = client.exec_create(
                self._name, list(argv), environment=dict(env or {}), user="0:0"
            )
            tail = b""
            for piece in client.exec_start(made["Id"], stream=True):
                tail = (tail + piece)[-_TAIL_BYTES:]
            code = client.exec_inspect(made["Id"]).get("ExitCode")
        if not isinstance(code, int):
            raise EngineError(
                f"{self._daemon} does not say how {argv[0]} ended", "look at the engine's log"
            )
        return Ran(code, tail.decode("utf-8", "replace"))

    def get(self, path: str) -> bytes:
        """A file's content; symbolic links are followed.

        Raises:
            InputError: there is no such file.
            EngineError: the engine failed.
        """
        here = path
        with self._talk(f"read {path}") as client:
            for _ in range(_LINKS):
                try:
                    blocks, status = client.get_archive(self._name, here)
                except NotFound:
                    break
                link = (status or {}).get("linkTarget")
                if not (int((status or {}).get("mode", 0)) & _LINK_BIT and link):
                    return _only_file(blocks, path)
                here = posixpath.join(posixpath.dirname(here), link)
        raise InputError(f"{self._image} has no file {path}", "check the image")

    def take(self, path: str, read: Callable[[TarReader], T]) -> T:
        """Hand a folder's content to a reader, as it comes.

        Args:
            path: of the folder; the members' paths begin with its last part.
            read: takes the archive.

        Returns:
            What `read` gives.

        Raises:
            InputError: there is no such folder, or the archive is not in order.
            EngineError: the engine failed.
        """
        with self._talk(f"read {path}", patient=True) as client:
            try:
                blocks, _ = client.get_archive(self._name, path)
            except NotFound:
                raise InputError(f"{self._image} has no {path}", "check the image") from None
            return read(TarReader(iter(blocks), path, require_end=True))

    def _create(self, client: docker.APIClient) -> None:
        client.create_container(
            self._image,
            name=self._name,
            entrypoint=["/bin/sh"],
            command=[],
            user="0:0",
            stdin_open=True,
            network_disabled=True,
            labels={LABEL: "1"},
            healthcheck={"test": ["NONE"]},
            host_config=client.create_host_config(
                network_mode="none",
                cap_drop=["ALL"],
                cap_add=self._capabilities,
                security_opt=["no-new-privileges"],
                auto_remove=True,
            ),
        )

    def _remove(self) -> None:
        with self._talk("remove the container") as client:
            with suppress(APIError):  # the engine may be removing it by itself already
                client.remove_container(self._name, v=True, force=True)
            for _ in range(_REMOVAL_TRIES):
                try:
                    client.inspect_container(self._name)
                except NotFound:
                    return
                time.sleep(_REMOVAL_PAUSE)
        raise EngineError(
            f"{self._daemon} does not remove the container {self._name}",
            f"remove it: docker rm -f {self._name}",
        )

    def _talk(self, doing: str, *, patient: bool = False) -> Any:
        return self._daemon.talk(f"{doing} ({self._image})", patient=patient)


def _only_file(blocks: Any, path: str) -> bytes:
    reader = TarReader(iter(blocks), path)
    for member in reader:
        if member.kind != "0":
            break
        if member.size > _FILE_LIMIT:
            raise InputError(f"{path} has {member.size} bytes", "this is too much for one file")
        return b"".join(reader.content())
    raise InputError(f"{path} is no file", "check the image")

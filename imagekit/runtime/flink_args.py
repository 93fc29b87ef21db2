"""How a container is started with Flink: the words, and what they ask for.

Measured with Flink 1.15.4, 1.16.3 and 1.20.5 on Kubernetes:

| words | what it is |
|---|---|
| ``jobmanager [host [port]] [-D …]`` | stock image: session cluster |
| ``standalone-job [options] [-D …] [arguments of the job]`` | stock image: one job |
| ``taskmanager [-D …]`` | stock image |
| ``bash -c 'kubernetes-jobmanager.sh kubernetes-session '`` | native Kubernetes: session cluster |
| ``bash -c 'kubernetes-jobmanager.sh kubernetes-application '`` | native Kubernetes: one job |
| ``bash -c "kubernetes-taskmanager.sh -Da='b' … -D c=d … "`` | native Kubernetes |

The text for bash is parted into words here and no shell ever sees it: what a shell would expand,
run or redirect is refused.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Sequence  # noqa: UP035 - Python 3.8

from .launch import FLINK_ROLES
from .stop import REFUSED, Stop

SESSION = "session"
APPLICATION = "application"
TASK_MANAGER = "taskmanager"

_SHELLS = ("bash", "/bin/bash", "/usr/bin/bash")
_SCRIPTS = {"jobmanager": "kubernetes-jobmanager.sh", "taskmanager": "kubernetes-taskmanager.sh"}
_MODES = {"kubernetes-session": SESSION, "kubernetes-application": APPLICATION}
_PIECE = re.compile(
    r"'([^'\n]*)'"  # as it stands
    r'|"([^"$`\\\n]*)"'
    r"|\\([^\n])"
    r"|((?<=[^ \t])#|[A-Za-z0-9_@%+=:,./^-])"
)
_JOB_ID = re.compile(r"[0-9a-f]{32}")
_PORT = re.compile(r"[0-9]{1,5}")

_CONF_DIR = ("--configDir", "-c")
_HOST = ("--host", "-h")
_REST_PORT = ("--webui-port", "-r")
_EXECUTION_MODE = ("--executionMode", "-x")
_CLASS = ("--job-classname", "-j")
_ID = ("--job-id", "-jid")
_SAVEPOINT = ("--fromSavepoint", "-s")
_JARS = ("--jars", "-jars")
_NOT_RESTORED = ("--allowNonRestoredState", "-n")
_OF_A_JOB = (_CLASS, _ID, _SAVEPOINT, _JARS)


class Asked(NamedTuple):
    """What the words of a container ask for.

    Attributes:
        kind: SESSION, APPLICATION or TASK_MANAGER.
        kubernetes: whether Flink itself asks Kubernetes for its TaskManagers.
        properties: of ``-D``, the last of a name, and of ``--host`` and ``--webui-port``, which
            win over those.
        conf_dir: what ``--configDir`` names, None without it.
        job_class, job_id, savepoint: of the stock image's ``standalone-job``; None if not given.
        jars: of the same.
        allow_not_restored: whether state that the job no longer has may stay behind.
        arguments: of the job.
    """

    kind: str
    kubernetes: bool
    properties: dict[str, str]
    conf_dir: str | None
    job_class: str | None
    job_id: str | None
    savepoint: str | None
    jars: tuple[str, ...]
    allow_not_restored: bool
    arguments: tuple[str, ...]

    def __repr__(self) -> str:
        """The kind alone: the rest may hold secrets."""
        return f"Asked(kind={self.kind!r}, kubernetes={self.kubernetes!r}, …)"


def container_role(words: Sequence[str]) -> tuple[str, tuple[str, ...]] | None:
    """Give role and arguments of the words that a container was started with.

    The role of both JobManagers on native Kubernetes is ``jobmanager``; the name of Flink's script
    stays the first of the arguments, so that :func:`parse_args` can tell.

    Returns:
        None if this is no way to start Flink.

    Raises:
        Stop: a shell is asked to do more than to start Flink.
    """
    if not words:
        return None
    if words[0] in FLINK_ROLES:
        return words[0], tuple(words[1:])
    if words[0] in _SHELLS and tuple(words[1:2]) == ("-c",) and len(words) > 2:
        if not any(script in words[2] for script in _SCRIPTS.values()):
            return None
        if len(words) > 3:
            raise Stop(REFUSED, "bash -c with Flink's script is refused: words follow its text")
        words = shell_words(words[2])
        if not words or words[0] not in _SCRIPTS.values():
            raise Stop(REFUSED, "bash -c is refused: its text does not begin with Flink's script")
    for role, script in _SCRIPTS.items():
        if words[0] == script:
            return role, tuple(words)
    return None


def shell_words(text: str) -> list[str]:
    """Part a text into the words that a shell would make of it, if nothing else is in it.

    Raises:
        Stop: it holds an expansion, a second command, a redirection or the like.
    """
    words: list[str] = []
    at, word = 0, None
    while at < len(text):
        if text[at] in " \t":
            if word is not None:
                words.append(word)
            at, word = at + 1, None
            continue
        piece = _PIECE.match(text, at)
        if piece is None:
            raise Stop(
                REFUSED,
                "bash -c is refused: shell syntax besides plain words and quotes is in its text",
            )
        word = (word or "") + "".join(group or "" for group in piece.groups())
        at = piece.end()
    return words if word is None else [*words, word]


def parse_args(role: str, args: Sequence[str]) -> Asked:
    """Read the arguments of a role.

    Args:
        role: one of Flink's roles.
        args: its arguments, as :func:`container_role` gives them.

    Raises:
        Stop: an option or a word that the role does not have.
    """
    reader = _Reader(args)
    kubernetes = tuple(args[:1]) == (_SCRIPTS.get(role),)
    if role == "standalone-job":
        reader.options((_CONF_DIR, _HOST, _REST_PORT, _EXECUTION_MODE, *_OF_A_JOB))
        return reader.asked(APPLICATION, kubernetes)
    kind = SESSION if role == "jobmanager" else TASK_MANAGER
    if kubernetes:
        reader.at = 1
        if role == "jobmanager":
            kind = reader.mode()
    elif role == "jobmanager":
        reader.host_and_port()
    stock = role == "jobmanager" and not kubernetes
    reader.options((_CONF_DIR, *((_HOST, _REST_PORT, _EXECUTION_MODE) if stock else ())))
    if reader.rest():
        raise Stop(REFUSED, f"{role}: refused: a word or option that it does not have")
    return reader.asked(kind, kubernetes)


class _Reader:
    """Reads options up to the first word that is none, as Flink does."""

    def __init__(self, args: Sequence[str]) -> None:
        self.args = args
        self.at = 0
        self.properties: dict[str, str] = {}
        self.given: dict[tuple[str, ...], str] = {}

    def rest(self) -> tuple[str, ...]:
        return tuple(self.args[self.at :])

    def next(self, what: str) -> str:
        if self.at == len(self.args):
            raise Stop(REFUSED, f"the arguments end where {what} is expected")
        self.at += 1
        return self.args[self.at - 1]

    def mode(self) -> str:
        word = self.next("a mode")
        if word not in _MODES:
            raise Stop(REFUSED, f"{_SCRIPTS['jobmanager']}: say one of {', '.join(_MODES)}")
        return _MODES[word]

    def host_and_port(self) -> None:
        """The stock image's older form: a host and a port before all options."""
        for option in (_HOST, _REST_PORT):
            if self.at < len(self.args) and not self.args[self.at].startswith("-"):
                self.given[option] = self.next("a host")

    def options(self, known: Sequence[tuple[str, ...]]) -> None:
        while self.at < len(self.args):
            word = self.args[self.at]
            if word.startswith("-D"):
                self.at += 1
                self._property(word[2:] or self.next("a property"))
            elif word in _NOT_RESTORED and _CLASS in known:
                self.at += 1
                self.given[_NOT_RESTORED] = ""
            elif word == "--" and _CLASS in known:
                self.at += 1
                return
            elif not self._option(word, known):
                return

    def _option(self, word: str, known: Sequence[tuple[str, ...]]) -> bool:
        name, separator, value = word.partition("=")
        for option in known:
            if name in option:
                self.at += 1
                self.given[option] = value if separator else self.next("a value")
                return True
        return False

    def _property(self, text: str) -> None:
        name, separator, value = text.partition("=")
        if not name:
            raise Stop(REFUSED, "-D is refused: it has no name")
        self.properties[name] = value if separator else "true"

    def asked(self, kind: str, kubernetes: bool) -> Asked:
        given = self.given
        if _HOST in given:
            self.properties["jobmanager.rpc.address"] = given[_HOST]
        if _REST_PORT in given:
            if not _PORT.fullmatch(given[_REST_PORT]):
                raise Stop(REFUSED, "the web port is refused: it is not a port")
            self.properties["rest.port"] = given[_REST_PORT]
        if _ID in given and not _JOB_ID.fullmatch(given[_ID]):
            raise Stop(REFUSED, f"{_ID[0]} is refused: it is not 32 hexadecimal digits")
        return Asked(
            kind=kind,
            kubernetes=kubernetes,
            properties=self.properties,
            conf_dir=given.get(_CONF_DIR),
            job_class=given.get(_CLASS),
            job_id=given.get(_ID),
            savepoint=given.get(_SAVEPOINT),
            jars=tuple(filter(None, given.get(_JARS, "").split(","))),
            allow_not_restored=_NOT_RESTORED in given,
            arguments=self.rest(),
        )

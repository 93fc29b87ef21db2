"""Rules for Dockerfiles in the manner of hadolint, for the ones that imagekit renders.

:func:`lint` gives one line ``RULE: what`` for every violation. The rules are stricter than
hadolint's where a rendered file has no excuse.
"""

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

PROXIES = {"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"}
SECRET = re.compile(r"passw|passphrase|secret|token|credential|private|api_?key|_key$|^key$", re.I)
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
LOCAL_BUILDER = re.compile(r"imagekit-builder:[a-z0-9.+_-]+$")
VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)")
INSTRUCTIONS = "ARG FROM COPY ADD RUN ENV LABEL WORKDIR USER ENTRYPOINT CMD SHELL EXPOSE VOLUME"
KNOWN = set(re.findall(r"\w+", INSTRUCTIONS))


class Line(NamedTuple):
    """An instruction with its words, and the stage it belongs to (-1: before the first FROM)."""

    name: str
    rest: str
    stage: int


class Stage(NamedTuple):
    """A stage: what it builds on and its name, or ""."""

    image: str
    name: str


def parse(text: str) -> tuple[list[Line], list[Stage]]:
    """Give instructions and stages; comments and continued lines are resolved as Docker does."""
    lines: list[Line] = []
    stages: list[Stage] = []
    held = ""
    for raw in text.splitlines():
        if raw.lstrip().startswith("#") or (held and not raw.strip()):
            continue
        held += raw
        if held.endswith("\\"):
            held = held[:-1] + " "
            continue
        if held.strip():
            name, _, rest = held.strip().partition(" ")
            if name == "FROM":
                words = rest.split()
                named = len(words) == 3 and words[1].upper() == "AS"
                stages.append(Stage(words[0], words[2] if named else ""))
            lines.append(Line(name, rest.strip(), len(stages) - 1))
        held = ""
    return lines, stages


def commands(shell: str) -> Iterator[list[str]]:
    """Give the simple commands of a shell line as words (good enough for rendered files)."""
    lexer = shlex.shlex(shell, posix=True, punctuation_chars=";&|()<>")
    lexer.whitespace_split = True
    lexer.commenters = ""
    found: list[str] = []
    for word in lexer:
        if word in {";", "&&", "||", "|", "&", "(", ")", "then", "do", "else", "if", "while", "!"}:
            if found:
                yield found
            found = []
        else:
            found.append(word)
    if found:
        yield found


def program(command: list[str]) -> str:
    """Give the program of a simple command, assignments in front of it left out."""
    words = [word for word in command if not re.match(r"[A-Za-z_]\w*=", word)]
    return words[0].rpartition("/")[2] if words else ""


def pipes(shell: str) -> bool:
    """Whether a pipe is in it, outside of quotes."""
    lexer = shlex.shlex(shell, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    return "|" in list(lexer)


def env_names(line: Line) -> list[str]:
    """Give the names that an ENV, ARG or LABEL instruction sets."""
    return [word.partition("=")[0] for word in shlex.split(line.rest) if line.name in _SETTERS]


_SETTERS = {"ENV", "ARG", "LABEL"}


def lint(text: str, *, user: bool = False) -> list[str]:
    """Give all violations.

    Args:
        text: the Dockerfile.
        user: whether the image must not run as root.
    """
    lines, stages = parse(text)
    found = [f"{name}: {what}" for name, rule in RULES.items() for what in rule(lines, stages)]
    if user:
        last = [line.rest for line in lines if line.name == "USER"][-1:]
        if not last or re.fullmatch(r"(root|0)(:.*)?", last[0]):
            found.append(f"user: the image runs as {last or 'root'}")
    return found


Rule = Callable[[list[Line], list[Stage]], Iterator[str]]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    RULES[function.__name__.replace("_", "-")] = function
    return function


def runs(lines: list[Line]) -> Iterator[str]:
    return (line.rest for line in lines if line.name == "RUN")


@rule
def known(lines: list[Line], stages: list[Stage]) -> Iterator[str]:
    yield from (line.name for line in lines if line.name not in KNOWN)
    if not stages:
        yield "no FROM"


@rule
def pinned(lines: list[Line], stages: list[Stage]) -> Iterator[str]:
    defaults = dict(
        line.rest.partition("=")[::2] for line in lines if line.name == "ARG" and line.stage < 0
    )
    names = {"scratch"}
    for stage in stages:
        image = VARIABLE.sub(lambda match: defaults.get(match[1], ""), stage.image)
        image = image.replace("}", "") if "${" in stage.image else image
        if image not in names and not DIGEST.search(image) and not LOCAL_BUILDER.match(image):
            yield f"FROM {stage.image} ({image or 'nothing'})"
        names.add(stage.name)


@rule
def latest(lines: list[Line], _stages: list[Stage]) -> Iterator[str]:
    for line in lines:
        if line.name in {"FROM", "ARG"} and re.search(r":latest\b", line.rest):
            yield line.rest


@rule
def no_add(lines: list[Line], _stages: list[Stage]) -> Iterator[str]:
    yield from (line.rest for line in lines if line.name == "ADD")


@rule
def programs(lines: list[Line], _stages: list[Stage]) -> Iterator[str]:
    """No sudo, no cd, nothing that fetches without a check."""
    for shell in runs(lines):
        for command in commands(shell):
            if program(command) in {"sudo", "su", "cd", "curl", "wget", "pip", "pip3", "ssh"}:
                yield " ".join(command)


@rule
def apt(lines: list[Line], _stages: list[Stage]) -> Iterator[str]:
    for shell in runs(lines):
        for command in commands(shell):
            if program(command) == "apt":
                yield "apt is for people: take apt-get"
            if program(command) == "apt-get" and "install" in command:
                for option in ("--yes", "--no-install-recommends"):
                    if option not in command:
                        yield f"{option} is missing: {' '.join(command)}"
        if "apt-get" in shell and "update" in shell and "/var/lib/apt/lists" not in shell:
            yield "the lists stay in the layer"


@rule
def pipefail(lines: list[Line], _stages: list[Stage]) -> Iterator[str]:
    safe: dict[int, bool] = {}
    for line in lines:
        if line.name == "SHELL":
            safe[line.stage] = "pipefail" in line.rest
        unsafe = "pipefail" not in line.rest and not safe.get(line.stage)
        if line.name == "RUN" and pipes(line.rest) and unsafe:
            yield line.rest


@rule
def buildkit(lines: list[Line], _stages: list[Stage]) -> Iterator[str]:
    for line in lines:
        if line.name == "RUN" and re.match(r"--(mount|network|security)", line.rest):
            yield line.rest
        if line.name in {"RUN", "COPY"} and re.search(r"<<-?['\"]?[A-Za-z_]", line.rest):
            yield f"here-document: {line.rest}"
        if line.name == "COPY" and re.match(r"--(chmod|link|parents|exclude)", line.rest):
            yield line.rest


@rule
def arguments(lines: list[Line], _stages: list[Stage]) -> Iterator[str]:
    for at, line in enumerate(lines):
        if line.name == "ARG":
            name = line.rest.partition("=")[0]
            used = any(name in VARIABLE.findall(later.rest) for later in lines[at + 1 :])
            if not used:
                yield f"ARG {name} is not used"


@rule
def secrets(lines: list[Line], _stages: list[Stage]) -> Iterator[str]:
    for line in lines:
        if line.name in {"ENV", "ARG"}:
            yield from (name for name in env_names(line) if SECRET.search(name))
        if line.name in {"COPY", "ADD"} and re.search(
            r"\.(key|p12|jks|pfx)\b|-key\.pem", line.rest
        ):
            yield line.rest


@rule
def proxies(lines: list[Line], _stages: list[Stage]) -> Iterator[str]:
    for line in lines:
        if line.name in _SETTERS:
            yield from (name for name in env_names(line) if name.lower() in PROXIES)


@rule
def workdir(lines: list[Line], _stages: list[Stage]) -> Iterator[str]:
    for line in lines:
        if line.name == "WORKDIR" and not line.rest.strip("\"'").startswith("/"):
            yield line.rest


@rule
def exec_form(lines: list[Line], _stages: list[Stage]) -> Iterator[str]:
    for line in lines:
        if line.name in {"ENTRYPOINT", "CMD"}:
            try:
                words = json.loads(line.rest)
                good = isinstance(words, list) and all(isinstance(word, str) for word in words)
            except ValueError:
                good = False
            if not good:
                yield f"{line.name} {line.rest}"


@rule
def once(lines: list[Line], _stages: list[Stage]) -> Iterator[str]:
    counted = Counter((line.stage, line.name) for line in lines)
    for (stage, name), count in counted.items():
        if name in {"ENTRYPOINT", "CMD", "USER", "WORKDIR"} and count > 1:
            yield f"{count} {name} in stage {stage}"


@rule
def stage_names(lines: list[Line], stages: list[Stage]) -> Iterator[str]:
    names = [stage.name for stage in stages if stage.name]
    yield from (f"{name} twice" for name, count in Counter(names).items() if count > 1)
    sources = [stage.image for stage in stages] + [_from(line) for line in lines]
    for stage in stages[:-1]:
        if not stage.name:
            yield f"FROM {stage.image} has no name"
        elif stage.name not in sources:
            yield f"{stage.name} is not used"


@rule
def copy_from(lines: list[Line], stages: list[Stage]) -> Iterator[str]:
    for line in lines:
        source = _from(line)
        if source and source not in [stage.name for stage in stages[: line.stage]]:
            yield line.rest


@rule
def copy_target(lines: list[Line], _stages: list[Stage]) -> Iterator[str]:
    for line in lines:
        if line.name == "COPY":
            options, bracket, listed = line.rest.partition("[")
            words = json.loads(bracket + listed) if bracket else options.split()
            words = [word for word in words if not word.startswith("--")]
            if len(words) > 2 and not words[-1].endswith("/"):
                yield f"several sources need a folder: {line.rest}"
            if not words[-1].startswith("/"):
                yield f"a relative target: {line.rest}"


def _from(line: Line) -> str:
    match = re.search(r"--from=(\S+)", line.rest) if line.name == "COPY" else None
    return match[1] if match else ""

"""From YAML text to typed values, with errors that name the file, the line and the key.

The parsers of the project file (:mod:`imagekit.spec.project`, :mod:`imagekit.spec.base`) walk over
:class:`Node` values. Every refusal has the form ``FILE:LINE: key.path: problem``; an unknown key or
word is answered with the nearest known one. The text is read with PyYAML's safe composer: tags
never make objects, a key given twice is refused (YAML 1.2.2, section 3.2.1.3 demands unique keys,
most readers keep the last one silently), and so are merge keys (``<<``), which hide where a value
came from.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Never

from imagekit.errors import InputError, UsageError

if TYPE_CHECKING:
    import yaml

    AnyNode = yaml.ScalarNode | yaml.SequenceNode | yaml.MappingNode

Kind = Literal["mapping", "sequence", "scalar", "null"]

MAX_BYTES = 4 << 20
"""Largest project file that is read, in bytes: more than that is not written by people."""

_QUICK = 8 << 10
"""Bytes up to which libyaml reads the file, ten times quicker. It crashes on extreme nesting, which
needs more text than this; and errors are left to PyYAML's own reader, whose messages are better."""

_TAG = "tag:yaml.org,2002:"
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.+/-]+")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FOUND = {"mapping": "a mapping", "sequence": "a list", "null": "nothing"}


def shown(value: str, limit: int = 60) -> str:
    """Give ``value`` quoted for a message: one line, printable, at most ``limit`` characters."""
    text = value if len(value) <= limit else value[: limit - 1] + "…"
    if all(c.isprintable() for c in text) and '"' not in text:
        return f'"{text}"'
    return ascii(text)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Give the known word that looks most like ``word``, or None when none is near."""
    from difflib import get_close_matches

    choices = sorted(known)
    folded = {choice.casefold(): choice for choice in reversed(choices)}
    found = get_close_matches(word.casefold(), list(folded), n=1, cutoff=0.5)
    return folded[found[0]] if found else None


def suggestion(word: str, known: Collection[str]) -> str:
    """Give the hint line for an unknown ``word``: the nearest known one, else all of them."""
    near = nearest(word, known)
    if near is not None:
        return f'did you mean "{near}"?'
    return f"known here: {', '.join(sorted(known))}"


@dataclass(frozen=True, eq=False)
class Node:
    """One value of a YAML file that knows where it stands.

    Attributes:
        file: the file's name as the user gave it.
        line: line of the value in the file, counted from 1.
        key: path of keys to the value, such as ``matrix.epc[0]``; empty for the whole file.

    """

    file: str
    line: int
    key: str
    _node: AnyNode | None

    @property
    def kind(self) -> Kind:
        """What the value is: ``mapping``, ``sequence``, ``scalar`` or ``null``."""
        if self._node is None:
            return "null"
        if self._node.id == "scalar":
            return "null" if self._node.tag == _TAG + "null" else "scalar"
        return "mapping" if self._node.id == "mapping" else "sequence"

    @property
    def raw(self) -> str:
        """The scalar's text as written (without quotes); empty for anything else."""
        return str(self._node.value) if self._node is not None and self.kind == "scalar" else ""

    @property
    def where(self) -> str:
        """``FILE:LINE: key.path``, the beginning of every message about this value."""
        place = f"{self.file}:{self.line}"
        return f"{place}: {self.key}" if self.key else place

    def error(self, problem: str, hint: str) -> UsageError:
        """Give (not raise) the error that says what is wrong with this value."""
        return UsageError(f"{self.where}: {problem}", hint)

    def mapping(
        self, known: Collection[str] | None = None, required: Sequence[str] = ()
    ) -> Mapping[str, Node]:
        """Give the value's keys and their nodes, in the order of the file.

        Args:
            known: the keys that may stand here; None for free names (``env``).
            required: the keys that must stand here.

        Raises:
            UsageError: not a mapping; an unknown, repeated or missing key; a key that is no word.

        """
        if self._node is None or self._node.id != "mapping":
            self._expected("a mapping (key: value)")
        nodes: dict[str, Node] = {}
        for key_node, value_node in self._node.value:
            name, child = self._entry(key_node, value_node)
            if name in nodes:
                raise child.error(
                    "key given twice", f"it stands on line {nodes[name].line} already"
                )
            if known is not None and name not in known:
                raise child.error("unknown key", suggestion(name, known))
            nodes[name] = child
        for name in required:
            if name not in nodes:
                raise self.error(f'the key "{name}" is missing', f'add "{name}: …" here')
        return nodes

    def sequence(self, *, minimum: int = 0) -> tuple[Node, ...]:
        """Give the items of a list; UsageError if it is no list or has fewer than ``minimum``."""
        if self._node is None or self._node.id != "sequence":
            self._expected("a list")
        items = tuple(
            Node(self.file, item.start_mark.line + 1, f"{self.key}[{i}]", item)
            for i, item in enumerate(self._node.value)
        )
        if len(items) < minimum:
            raise self.error("the list is empty", "give at least one item or leave the key out")
        return items

    def strings(self, *, minimum: int = 0) -> tuple[str, ...]:
        """Give a list of strings, in the order of the file."""
        return tuple(item.string() for item in self.sequence(minimum=minimum))

    def string(
        self,
        *,
        empty: bool = False,
        pattern: str | re.Pattern[str] | None = None,
        what: str = "a string",
        hint: str | None = None,
    ) -> str:
        """Give the text of a scalar.

        A number or date gives the text as written (``tag: 2.5`` is the text ``2.5``). A bare
        ``yes``, ``true`` or ``null`` is refused: YAML 1.1 readers do not agree about these words.

        Args:
            empty: whether the empty text is taken.
            pattern: expression that the whole text must match.
            what: what belongs here, for the message ("a suite name such as bookworm").
            hint: the hint line when the pattern does not match.

        """
        if self.kind != "scalar" or self._node is None:
            self._expected(what)
        if self._node.tag == _TAG + "bool":
            raise self.error(f"expected {what}, found {self.raw}", f'quote it: "{self.raw}"')
        text = self.raw
        if not text and not empty:
            raise self.error(f"expected {what}, found an empty text", "give a value")
        if "\0" in text:
            raise self.error("the text holds a zero byte", "remove it")
        if pattern is not None and not re.fullmatch(pattern, text):
            raise self.error(f"{shown(text)} is not {what}", hint or f"give {what}")
        return text

    def integer(self, *, minimum: int | None = None, maximum: int | None = None) -> int:
        """Give a whole decimal number; UsageError outside ``minimum`` … ``maximum`` (inclusive)."""
        if self.kind != "scalar" or not self._plain:
            self._expected("a whole number")
        if not _INTEGER.fullmatch(self.raw):
            raise self.error(
                f"{shown(self.raw)} is not a whole number",
                "write decimal digits only, without a leading zero",
            )
        value = int(self.raw)
        if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
            least = "any" if minimum is None else minimum
            most = "any" if maximum is None else maximum
            raise self.error(f"{value} is out of range", f"allowed: {least} to {most}")
        return value

    def boolean(self) -> bool:
        """Give true or false; the other spellings of YAML 1.1 (yes, on, …) are refused."""
        if self.kind == "scalar" and self._plain and self.raw.lower() in {"true", "false"}:
            return self.raw.lower() == "true"
        return self._expected("true or false", hint="write true or false, without quotes")

    def choice(self, options: Sequence[str]) -> str:
        """Give one of the words in ``options``; UsageError with the nearest one otherwise."""
        word = self.string(what=f"one of {', '.join(options)}")
        if word not in options:
            near = nearest(word, options)
            listed = ", ".join(options)
            hint = f'did you mean "{near}"? allowed: {listed}' if near else f"allowed: {listed}"
            raise self.error(f"{shown(word)} is not allowed", hint)
        return word

    @property
    def _plain(self) -> bool:
        return not getattr(self._node, "style", None)  # libyaml says "" where PyYAML says None

    def _entry(self, key_node: AnyNode, value_node: AnyNode) -> tuple[str, Node]:
        line = key_node.start_mark.line + 1
        if key_node.id != "scalar":
            raise UsageError(
                f"{self.file}:{line}: {self.key or 'file'}: a key must be a plain word",
                "write key: value",
            )
        name = str(key_node.value)
        label = name if _PLAIN_KEY.fullmatch(name) else shown(name)
        path = f"{self.key}.{label}" if self.key else label
        if key_node.tag == _TAG + "merge":
            raise UsageError(
                f"{self.file}:{line}: {path}: merge keys are not supported",
                "write the keys out",
            )
        # the key's line: a value may begin on the next one, people look for the key
        return name, Node(self.file, line, path, value_node)

    def _expected(self, what: str, hint: str | None = None) -> Never:
        found = _FOUND.get(self.kind) or shown(self.raw)
        raise self.error(f"expected {what}, found {found}", hint or f"give {what} here")


def parse_yaml(text: str | bytes, file: str) -> Node:
    """Read one YAML document.

    Args:
        text: the document; bytes are taken as UTF-8 (or UTF-16 with a byte order mark).
        file: the name used in messages.

    Raises:
        UsageError: bad syntax, wrong encoding, empty, several documents, nested too deeply.

    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", None)  # absent where PyYAML lacks libyaml
    if loader is not None and len(text) <= _QUICK:
        with suppress(yaml.YAMLError, ValueError, RecursionError):
            quick: AnyNode | None = yaml.compose(text, Loader=loader)  # type: ignore[assignment]
            if quick is not None:
                return Node(file, quick.start_mark.line + 1, "", quick)
    try:
        root: AnyNode | None = yaml.compose(text, Loader=yaml.SafeLoader)  # type: ignore[assignment]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UsageError(
            f"{file}:{line}: not valid YAML: {error.problem or error.context or 'syntax error'}",
            "look at this line and the one before it (indentation, quotes, colons)",
        ) from None
    except yaml.reader.ReaderError as error:
        raise UsageError(
            f"{file}:{_reader_line(text, error.position)}: not readable as text: {error.reason}",
            "save the file as UTF-8 text",
        ) from None
    except (RecursionError, ValueError):
        raise UsageError(f"{file}:1: nested too deeply to be read", "simplify the file") from None
    if root is None:
        raise UsageError(
            f"{file}:1: the file is empty", "write the keys, or start from `imagekit init`"
        )
    return Node(file, root.start_mark.line + 1, "", root)


def load_yaml(path: Path) -> Node:
    """Read the YAML file at ``path``; messages name it as given.

    Raises:
        InputError: absent or unreadable.
        UsageError: not valid YAML, or larger than :data:`MAX_BYTES`.

    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file", "name the project file, or write one with `imagekit init`"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror or 'input/output error'}",
            "check the path and its permissions",
        ) from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}:1: larger than {MAX_BYTES >> 20} MiB", "is this the right file?")
    return parse_yaml(data, str(path))


def _reader_line(text: str | bytes, position: int) -> int:
    before = text[:position]
    return 1 + (before.count("\n") if isinstance(before, str) else before.count(b"\n"))

"""The documentation against the code: commands run, options exist, tables agree, links resolve.

Blocks marked ``console`` are run in the order of the page, in one folder per page with a project on
a tiny base. What stands below a command is what it prints; there ``<64 hex digits>`` and ``[...]``
stand for what differs from run to run and for lines left out. A block that needs more than such a
folder carries a comment in front of it, ``<!-- not run: why -->``; its commands are only parsed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

import imagekit as package
from imagekit import errors
from imagekit.cli.main import app
from imagekit.images.bases import normalise
from imagekit.spec.keys import KEYS
from imagekit.spec.project import load_project

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
        ROOT / "examples" / "quickstart" / "README.md",
        *(ROOT / "docs").glob("*.md"),
    ]
)
COMMAND_LINE = ROOT / "docs" / "command-line.md"
PROJECT_FILE = ROOT / "docs" / "project-file.md"
CONSOLE_SCRIPTS = {
    "imagekit-gramine-manifest": ["tool", "gramine-manifest"],
    "imagekit-gramine-sgx-sign": ["tool", "gramine-sgx-sign"],
    "imagekit-sgx-sign": ["tool", "sgx-sign"],
}
TABLE_HEAD = ("| key | type | default | meaning |", "|---|---|---|---|")


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    reason: str
    """Why it is not run; empty if it is."""

    @property
    def steps(self) -> list[tuple[str, list[str]]]:
        """Each command with the lines printed below it."""
        found: list[tuple[str, list[str]]] = []
        lines = iter(self.text.splitlines())
        for line in lines:
            if line.startswith("$ "):
                command = line.removeprefix("$ ")
                while command.endswith("\\"):
                    command = command.removesuffix("\\") + next(lines).strip()
                found.append((command, []))
            else:
                found[-1][1].append(line)
        return found


def blocks_of(page: Path) -> list[Block]:
    found: list[Block] = []
    body: list[str] = []
    fence, marker = None, ""
    for line in page.read_text("utf-8").splitlines():
        if fence is not None:
            if line == "```":
                found.append(Block(fence, "\n".join(body) + "\n", marker))
                fence, marker = None, ""
            else:
                body.append(line)
        elif line.startswith("```"):
            fence, body = line.removeprefix("```"), []
        elif match := re.fullmatch(r"<!-- not run: (.+) -->", line):
            marker = match[1]
        elif line.strip():
            marker = ""
    assert fence is None, f"{page.name}: a block is not closed"
    return found


def commands_of(block: Block) -> list[str]:
    """The command lines of a console or sh block, comments cut off."""
    if block.language == "console":
        return [command for command, _ in block.steps]
    return block.text.replace("\\\n", "").splitlines()


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def leaves(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not hasattr(command, "commands"):
        return {path: command}
    found = {}
    for name, child in command.commands.items():
        found |= leaves(child, (*path, name))
    return found


TOP = typer.main.get_command(app)
COMMANDS = leaves(TOP)


def options_of(command: Any) -> dict[str, Any]:
    """Every spelling of every option."""
    return {
        spelling: parameter
        for parameter in command.params
        if parameter.param_type_name == "option"
        for spelling in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help": None}


def takes_value(option: Any) -> bool:
    return option is not None and not option.is_flag


def check_command(words: list[str]) -> None:
    """Fail unless the subcommand and all options of an ``imagekit …`` line exist."""
    command, path = TOP, []
    everywhere = options_of(TOP)
    words = list(words)
    while words:
        word = words.pop(0)
        options = options_of(command)
        name, equals, _ = word.partition("=")
        if name.startswith("-") and name != "-" and "…" not in name:
            short = name if name.startswith("--") or name in options else name[:2]
            known = options if short in options else everywhere
            assert short in known, f"imagekit {' '.join(path)} has no option {name}"
            if takes_value(known[short]) and not equals and name == short:
                assert words, f"imagekit {' '.join(path)} {name}: a value is missing"
                words.pop(0)
        elif hasattr(command, "commands") and "…" not in word:
            assert word in command.commands, f"imagekit {' '.join([*path, word])} is no command"
            command = command.commands[word]
            path.append(word)


def check_line(line: str) -> int:
    """Check all commands of a shell line; gives how many of imagekit's were in it."""
    checked = 0
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    command: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("|&;()<>"):
            command.append(word)
            continue
        while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
            command.pop(0)
        program = command[0].rpartition("/")[2] if command else ""
        if program == "imagekit" or program in CONSOLE_SCRIPTS:
            check_command([*CONSOLE_SCRIPTS.get(program, ()), *command[1:]])
            checked += 1
        elif program == "make":
            check_make(command[1:])
        command = []
    return checked


def check_make(words: list[str]) -> None:
    text = (ROOT / "Makefile").read_text()
    for word in words:
        if "=" in word:
            assert re.search(rf"^{word.partition('=')[0]} \?= ", text, re.MULTILINE), word
        elif not word.startswith("-"):
            assert re.search(rf"^{re.escape(word)}:", text, re.MULTILINE), f"make {word}"


def expected_text(lines: list[str]) -> str:
    """The shown output as a regular expression for the whole output."""
    pattern = ""
    for line in lines:
        if line == "[...]":
            pattern += r"(?:.*\n)*"
        else:
            pattern += re.escape(line).replace(re.escape("<64 hex digits>"), "[0-9a-f]{64}") + r"\n"
    return pattern


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_do_what_it_shows(page, project):
    environment = dict(os.environ, LC_ALL="C.UTF-8", TERM="dumb")
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for block in blocks_of(page):
        if block.language != "console" or block.reason:
            continue
        for command, shown in block.steps:
            done = subprocess.run(
                ["sh", "-c", command],
                cwd=project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            fails = any(line.startswith("error: ") for line in shown)
            assert (done.returncode != 0) == fails, f"$ {command}\n{done.stdout}"
            assert done.returncode not in (1, 127), f"$ {command}\n{done.stdout}"
            assert re.fullmatch(expected_text(shown), done.stdout), f"$ {command}\n{done.stdout}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_shown_exists(page):
    for block in blocks_of(page):
        if block.language in ("console", "sh"):
            for line in commands_of(block):
                check_line(line)
    for code in re.findall(
        r"`((?:imagekit|make)(?:-gramine-[a-z-]+|-sgx-sign)? [^`]+)`", prose(page)
    ):
        check_line(code)


def test_every_block_that_is_not_run_says_why():
    for page in PAGES:
        for block in blocks_of(page):
            assert block.language != "sh" or block.reason, f"{page.name}: {block.text}"


@pytest.mark.parametrize(
    "line",
    [
        "imagekit push oci:out",
        "imagekit build --epcs 16g",
        "imagekit key generate --force",
        "imagekit build --epc",
        "imagekit-gramine-manifest --depfile x",
        "SOURCE_DATE_EPOCH=1 imagekit plan | imagekit base make",
        "make images",
        "make image SIZE=16g",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line):
    with pytest.raises(AssertionError):
        check_line(line)


def test_commands_that_exist_pass():
    assert check_line("imagekit --quiet build -f x.yaml --epc=16g -DA=1 && imagekit plan") == 2
    check_line("make image EPC=16g LOG=error")


def test_a_page_without_its_marker_or_with_other_output_is_noticed():
    assert not re.fullmatch(expected_text(["a", "[...]", "z"]), "a\nb\ny\n")
    assert re.fullmatch(expected_text(["a <64 hex digits>", "[...]"]), f"a {'0' * 64}\nb\n")


# Options


def command_sections() -> dict[str, str]:
    parts = re.split(r"^#+ `imagekit ([a-z -]+)`$", COMMAND_LINE.read_text("utf-8"), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_has_a_section_and_no_other():
    assert set(command_sections()) == {" ".join(path) for path in COMMANDS}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_is_described_and_no_other(path):
    rows = re.findall(r"^\| (`-.*?) \|(.*)\|$", command_sections()[" ".join(path)], re.MULTILINE)
    described = [
        spelling for first, _ in rows for spelling in re.findall(r"`(-[^` ]+)[^`]*`", first)
    ]
    assert len(described) == len(set(described))
    options = options_of(COMMANDS[path])
    assert set(described) == set(options) - {"--help"}
    for first, rest in rows:
        option = options[re.findall(r"`(-[^` ]+)", first)[0]]
        assert (" " in first.partition("`, ")[0]) == takes_value(option) or "`, " in first, first
        if takes_value(option) and option.default is not None:
            assert f"`{option.default}`" in rest, f"{first}: default {option.default}"


def test_the_options_of_all_commands_are_described():
    head = COMMAND_LINE.read_text("utf-8").partition("\n## ")[0]
    for spelling in set(options_of(TOP)):
        assert f"`{spelling}`" in head, spelling


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_speaks_of_an_unknown_option(page):
    known = {spelling for command in (TOP, *COMMANDS.values()) for spelling in options_of(command)}
    for spelling in re.findall(r"`(--[a-z][a-z0-9-]*)[^`]*`", prose(page)):
        assert spelling in known, spelling


def test_the_tables_of_exit_codes_agree_with_the_code():
    codes = {error.exit_code for error in errors.ImagekitError.__subclasses__()}
    raised = {0, 1, 130} | codes
    for page in (ROOT / "README.md", COMMAND_LINE):
        rows = re.findall(r"^\| ([0-9]+) \|", page.read_text("utf-8"), re.MULTILINE)
        assert sorted(map(int, rows)) == sorted(raised), page.name


# Keys of the project file


def key_row(path: str) -> str:
    """The row of the table that a key has in ``docs/project-file.md``."""
    key = KEYS[path]
    default = "**required**" if key.required else ""
    if key.default is not None:
        words = str(key.default).lower() if isinstance(key.default, bool) else key.default
        default = f"`{', '.join(words) if isinstance(words, list) else words}`"
    notes = []
    if key.options:
        notes.append("one of " + ", ".join(f"`{word}`" for word in key.options))
    if key.kind == "integer" and key.most is not None and key.most != key.least:
        notes.append(f"{key.least} to {key.most}")
    text = key.text + (f" ({'; '.join(notes)})" if notes else "")
    return f"| `{path}` | {key.kind} | {default} | {text} |"


def test_every_key_is_in_the_tables_as_the_code_has_it():
    rows = [row for row in PROJECT_FILE.read_text("utf-8").splitlines() if row.startswith("| `")]
    assert rows == [key_row(path) for path in sorted(KEYS, key=list(KEYS).index)]


def fragments() -> list[str]:
    return [block.text for block in blocks_of(PROJECT_FILE) if block.language == "yaml"]


@pytest.mark.parametrize("fragment", fragments(), ids=lambda text: text.partition(":")[0])
def test_the_examples_of_keys_are_accepted(fragment, tmp_path):
    least = {
        "schema": "1",
        "image": "x",
        "tag": "'1'",
        "base": "{image: 'oci:b'}",
        "matrix": "{epc: [8g]}",
    }
    given = yaml.safe_load(fragment)
    path = tmp_path / "imagekit.yaml"
    more = [f"{name}: {value}\n" for name, value in least.items() if name not in given]
    path.write_text("".join([*more, fragment]))
    load_project(path)


def test_every_key_has_an_example():
    used = set()

    def walk(value: Any, path: str) -> None:
        if path in KEYS:
            used.add(path)
        if isinstance(value, dict):
            for name, child in value.items():
                walk(child, f"{path}.{name}" if path else name)
        elif isinstance(value, list):
            for child in value:
                walk(child, f"{path}[]")

    for fragment in fragments():
        walk(yaml.safe_load(fragment), "")
    assert used == set(KEYS)


def test_every_rule_about_a_distributions_files_is_described():
    text = (ROOT / "docs" / "base-images.md").read_text("utf-8")
    rules = (*normalise.EMPTIED, *normalise.DROPPED, *normalise.DROPPED_PATTERNS)
    for path in (*rules, *normalise.TRUSTSTORES, normalise.SOURCES, normalise.SHADOW):
        assert f"`{path}`" in text, path


# Links and pictures


def anchors(page: Path) -> set[str]:
    found = set()
    for title in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", title.lower())
        found.add(words.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(file), target


def test_the_picture_is_readable_in_light_and_dark_and_has_words():
    text = (ROOT / "docs" / "data-flow.svg").read_text("utf-8")
    names = [element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()]
    assert {"title", "desc"} <= set(names)
    assert "prefers-color-scheme: dark" in text
    readme = (ROOT / "README.md").read_text("utf-8")
    alt = re.search(r"!\[([^\]]+)\]\(docs/data-flow\.svg\)", readme)
    assert alt is not None
    assert len(alt[1]) > 80


def test_every_page_is_reached_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[a-z-]+\.md)\)", (ROOT / "README.md").read_text("utf-8")))
    assert linked == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}


def test_the_changelog_knows_this_version():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(rf"^## \[{re.escape(package.__version__)}\] - ", text, re.MULTILINE)


def shape(text: str) -> str:
    """Output without what depends on the day's packages, the key and the templates."""
    return re.sub(r"[0-9a-f]{64}|[0-9]+", "N", text)


@pytest.mark.integration("mmdebstrap", root=True)
def test_the_session_in_the_readme_is_what_the_quickstart_gives(tmp_path):
    """The base is kept in the checkout, as for the tests of the quickstart itself."""
    folder = tmp_path / "examples" / "quickstart"
    folder.mkdir(parents=True)
    for name in ("imagekit.yaml", "make_standin.py"):
        shutil.copy(ROOT / "examples" / "quickstart" / name, folder)
    key = ROOT / "tests" / "golden" / "gramine" / "test-only-enclave-key.pem"
    shutil.copy(key, folder / "enclave-key.pem")
    (folder / "enclave-key.pem").chmod(0o600)
    subprocess.run([sys.executable, folder / "make_standin.py"], check=True)
    environment = dict(os.environ, IMAGEKIT_CACHE=str(ROOT / ".imagekit" / "test-cache"))
    base = ["base", "build", "-f", "examples/quickstart/imagekit.yaml", "--engine", "assemble"]
    run = [sys.executable, "-m", "imagekit"]
    subprocess.run([*run, *base], cwd=tmp_path, env=environment, check=True)
    (session,) = (b for b in blocks_of(ROOT / "README.md") if b.language == "console")
    for command, shown in session.steps:
        done = subprocess.run(
            [*run, *shlex.split(command)[1:]],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        pattern = expected_text([shape(line) for line in shown])
        assert re.fullmatch(pattern, shape(done.stdout)), f"$ {command}\n{done.stdout}"


@pytest.mark.integration
def test_make_image_runs_what_the_readme_says():
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "image", "EPC=16g", "LOG=error"],
        cwd=ROOT,
        env=dict(os.environ, MAKEFLAGS=""),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    builds = [line for line in lines if " build " in line]
    assert len(builds) == 1
    assert builds[0] == lines[-1]
    assert check_line(builds[0]) == 1
    assert "--epc 16g --log error --output oci:out" in builds[0]
    order = [
        next(number for number, line in enumerate(lines) if word in line)
        for word in ("need mount mmdebstrap", "make_standin.py", "key generate", " build ")
    ]
    assert order == sorted(order)
    for line in lines:
        for word in re.findall(r"examples/\S+\.(?:py|yaml)|scripts/\w+", line):
            assert (ROOT / word).exists(), word

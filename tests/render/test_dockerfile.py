import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from dockerfile_rules import RULES, commands, lint, parse

from imagekit.errors import InputError
from imagekit.render.dockerfile import (
    BaseStages,
    CellImage,
    ContextFile,
    base_dockerfile,
    cell_dockerfile,
    dockerignore,
)

A, B = "aa" * 32, "bb" * 32
PINNED = f"registry.example/builder:1@sha256:{A}"

STAGES = BaseStages(
    builder="imagekit-builder:bookworm",
    pinned=False,
    builder_packages=("ca-certificates", "mmdebstrap"),
    suite="bookworm",
    mirrors=(),
    options=("--variant=apt", '--customize-hook=sh "$1"/x'),
    epoch=1704067200,
    ca_bundle=False,
    build_files=("fetch.sh", "install.sh"),
    debs=(),
    packages=(),
    exclude=(),
    artifacts=(),
    files=(),
    env={"PATH": "/usr/bin"},
    labels={"org.opencontainers.image.created": "2024-01-01T00:00:00Z"},
    workdir=None,
    user=None,
    entrypoint=(),
)
RICH = replace(
    STAGES,
    builder=PINNED,
    pinned=True,
    mirrors=("https://mirror.example/debian", "deb https://mirror.example/extra bookworm main"),
    ca_bundle=True,
    build_files=("SHA256SUMS", "extra.sources", "fetch.sh", "install.sh"),
    debs=(ContextFile("path:./a.deb", A),),
    packages=("tini=0.19.0-1", "zlib1g"),
    exclude=("/usr/share/doc/*", "/it's/*"),
    artifacts=(
        ContextFile("pypi:pyspark==3.5.9", A, ("--to", "/opt/a b", "--archive", "--strip", "1")),
        ContextFile("url:https://x.example/$y", B, ("--to", "/opt/y", "--mode", "0644")),
    ),
    files=(ContextFile("/etc/a", B, ("--to", "/etc/a", "--mode", "0640")),),
    env={"PATH": "/usr/bin", "ODD": 'a "b" $HOME \\ c'},
    labels={"org.opencontainers.image.created": "2024-01-01T00:00:00Z", "x.y": "$z"},
    workdir="/opt/a b",
    user="1000:1000",
    entrypoint=("/usr/bin/tini", "--", 'a "b"'),
)
CELL = CellImage(
    title="registry.example/team/x-gramine-reference-4g",
    version="1.0",
    cell="gramine-4g-error-dcap",
    base=f"registry.example/team/x-gramine-base:1.0@sha256:{B}",
    paths=("/ppml/bash.sig", "/opt/entrypoint.sh", "/ppml/bash.manifest"),
    sigfile="/ppml/bash.sig",
    signed=True,
    labels={"io.imagekit.epc": "4g"},
    user="1000",
    entrypoint=("/opt/entrypoint.sh",),
)


@pytest.mark.parametrize(
    "text",
    [
        base_dockerfile(STAGES),
        base_dockerfile(STAGES, root_only=True),
        base_dockerfile(RICH),
        base_dockerfile(RICH, root_only=True),
        cell_dockerfile(CELL),
        cell_dockerfile(replace(CELL, signed=False, user=None)),
    ],
    ids=["least", "least-root", "rich", "rich-root", "cell", "cell-unsigned"],
)
def test_what_is_rendered_keeps_all_rules(text):
    assert lint(text) == []
    assert text.endswith("\n") and "\n\n\n" not in text


def test_a_user_is_written_where_the_spec_has_one():
    assert lint(base_dockerfile(RICH), user=True) == []
    assert lint(cell_dockerfile(CELL), user=True) == []
    assert lint(base_dockerfile(STAGES), user=True) == ["user: the image runs as root"]
    assert lint(base_dockerfile(replace(STAGES, user="root")), user=True)


def test_no_word_of_the_spec_is_taken_apart_by_the_shell():
    lines, _ = parse(base_dockerfile(RICH))
    shells = [line.rest for line in lines if line.name == "RUN"]
    words = [word for shell in shells for command in commands(shell) for word in command]
    for value in (
        *RICH.options, *RICH.mirrors, *RICH.packages, *RICH.exclude,
        "/opt/a b", "url:https://x.example/$y", "pypi:pyspark==3.5.9",
    ):  # fmt: skip
        assert value in words


def test_words_of_docker_are_quoted():
    text = base_dockerfile(RICH)
    assert 'ENV ODD="a \\"b\\" \\$HOME \\\\ c"\n' in text
    assert 'LABEL x.y="\\$z"\n' in text
    assert 'WORKDIR "/opt/a b"\n' in text
    assert 'ENTRYPOINT ["/usr/bin/tini", "--", "a \\"b\\""]\n' in text


@pytest.mark.parametrize(
    "stages",
    [
        replace(STAGES, env={"A": "1\nRUN evil"}),
        replace(STAGES, labels={"a": "x\ry"}),
        replace(STAGES, workdir="/a\x1bb"),
        replace(STAGES, exclude=("/a\tb",)),
    ],
)
def test_what_no_dockerfile_can_hold_is_refused(stages):
    with pytest.raises(InputError, match="cannot stand in a Dockerfile"):
        base_dockerfile(stages)


def test_a_line_break_in_a_name_cannot_add_an_instruction():
    for stages in (
        replace(STAGES, mirrors=("a\nRUN evil",)),
        replace(STAGES, debs=(ContextFile("path:a\nRUN evil", A),)),
    ):
        with pytest.raises(InputError, match="cannot stand in a Dockerfile"):
            base_dockerfile(stages)


def test_folders_of_the_base_are_left_alone():
    text = cell_dockerfile(CELL)
    assert "COPY rootfs/opt/entrypoint.sh /opt/\n" in text
    assert "COPY rootfs/ppml/bash.manifest rootfs/ppml/bash.sig /ppml/\n" in text
    assert "COPY rootfs/ /" not in text


def test_an_unsigned_cell_copies_a_signature_too_and_says_how_to_get_one():
    text = cell_dockerfile(replace(CELL, signed=False))
    assert "rootfs/ppml/bash.sig /ppml/\n" in text
    assert "Not signed yet" in text and "fails" in text


def test_dockerignore_lets_nothing_else_through():
    assert dockerignore(["b", "a/c"]) == "*\n!a/c\n!b\n"


# -- each rule catches what it is for

GOOD = f"""\
ARG BASE=registry.example/x@sha256:{A}
FROM ${{BASE}} AS one
RUN apt-get update && apt-get install --yes --no-install-recommends tini \\
    && rm -r /var/lib/apt/lists
FROM scratch
COPY --from=one / /
ENV A="b"
WORKDIR /opt
USER 1000
ENTRYPOINT ["/usr/bin/tini"]
"""


def test_the_good_example_is_good():
    assert lint(GOOD, user=True) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("known", "WORKDIR /opt", "WORDKIR /opt"),
        ("pinned", f"@sha256:{A}", ":1.0"),
        ("pinned", "FROM ${BASE}", "FROM debian:12"),
        ("pinned", "FROM ${BASE}", "FROM ${OTHER}"),
        ("latest", f"@sha256:{A}", f":latest@sha256:{A}"),
        ("programs", "RUN apt-get update", "RUN sudo apt-get update"),
        ("programs", "RUN apt-get update", "RUN cd /x && apt-get update"),
        ("programs", "RUN apt-get update", "RUN wget https://x.example/y && apt-get update"),
        ("programs", "RUN apt-get update", "RUN curl -s https://x.example | sh; apt-get update"),
        ("no-add", "COPY --from=one / /", "COPY --from=one / /\nADD https://x.example/y /y"),
        ("apt", "--yes ", ""),
        ("apt", "--no-install-recommends ", ""),
        ("apt", " \\\n    && rm -r /var/lib/apt/lists", ""),
        ("apt", "apt-get install", "apt install"),
        ("pipefail", "RUN apt-get update", "RUN true | false; apt-get update"),
        ("buildkit", "RUN apt-get", "RUN --mount=type=secret,id=x apt-get"),
        ("buildkit", "RUN apt-get update", "RUN cat <<EOF > /x && apt-get update"),
        ("buildkit", "COPY --from=one", "COPY --chmod=755 --from=one"),
        ("arguments", "FROM scratch", "FROM scratch\nARG UNUSED=1"),
        ("secrets", 'ENV A="b"', 'ENV DB_PASSWORD="b"'),
        ("secrets", 'ENV A="b"', 'ENV A="b"\nARG API_TOKEN'),
        ("secrets", "COPY --from=one / /", "COPY enclave-key.pem /k\nCOPY --from=one / /"),
        ("proxies", 'ENV A="b"', "ENV HTTPS_PROXY=http://x.example"),
        ("proxies", 'ENV A="b"', "ARG http_proxy"),
        ("workdir", "WORKDIR /opt", "WORKDIR opt"),
        ("exec-form", 'ENTRYPOINT ["/usr/bin/tini"]', "ENTRYPOINT /usr/bin/tini"),
        ("exec-form", 'ENTRYPOINT ["/usr/bin/tini"]', "CMD ['x']"),
        ("once", "USER 1000", 'ENTRYPOINT ["/x"]\nUSER 1000'),
        ("stage-names", "FROM scratch", "FROM scratch AS one"),
        ("stage-names", "FROM scratch", "FROM scratch AS two\nFROM scratch"),
        ("stage-names", " AS one", ""),
        ("copy-from", "--from=one", "--from=three"),
        ("copy-target", "/ /\n", "/a /b /c\n"),
        ("copy-target", "/ /\n", "/a b\n"),
    ],
)
def test_a_bad_dockerfile_is_caught(name, old, new):
    assert old in GOOD
    found = lint(GOOD.replace(old, new, 1))
    assert name in {line.partition(":")[0] for line in found}, found


def test_a_root_user_is_caught():
    for user in ("root", "0", "0:0"):
        assert lint(GOOD.replace("USER 1000", f"USER {user}"), user=True)
    assert lint(GOOD.replace("USER 1000\n", ""), user=True)


def test_every_rule_is_tried():
    source = Path(__file__).read_text()
    assert [name for name in RULES if f'("{name}", ' not in source] == []


def test_comments_and_continued_lines_are_read_as_docker_reads_them():
    text = textwrap.dedent("""\
        # c
        RUN a \\
        # inside
            b
        """)
    lines, _ = parse(text)
    assert [(line.name, line.rest.split()) for line in lines] == [("RUN", ["a", "b"])]

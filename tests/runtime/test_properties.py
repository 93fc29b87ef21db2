"""Text of java.util.Properties: read as Java reads it, written so that Java reads the same."""

import json
import random
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.runtime.properties import parse_properties, write_properties

WORDS = st.text(st.characters(exclude_categories=["Cs"]))
TABLES = st.dictionaries(WORDS, WORDS)


@given(TABLES)
def test_what_is_written_is_read_again(table):
    text = write_properties(table).decode("ascii")
    assert parse_properties(text) == table


@given(TABLES)
def test_the_same_table_gives_the_same_bytes_in_any_order(table):
    backwards = dict(reversed(table.items()))
    assert write_properties(table) == write_properties(backwards)


@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        parse_properties(text)
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("a=b", {"a": "b"}),
        ("a:b", {"a": "b"}),
        ("a b", {"a": "b"}),
        ("a", {"a": ""}),
        ("a = b = c", {"a": "b = c"}),
        ("a  :\t=b", {"a": "=b"}),
        ("  a\t \f= b ", {"a": "b "}),
        ("#x=y\n!x=y\n  # x\n\n \t\na=1", {"a": "1"}),
        ("a=1\na=2", {"a": "2"}),
        ("a=1\r\nb=2\rc=3", {"a": "1", "b": "2", "c": "3"}),
        ("a=1\\\n   2\\\r\n\t3", {"a": "123"}),
        ("a=1\\\\\nb=2", {"a": "1\\", "b": "2"}),
        ("a=1\\\\\\\nb=2", {"a": "1\\b=2"}),
        ("a=1\\\n#b=2", {"a": "1#b=2"}),
        ("# a comment does not go on \\\na=1", {"a": "1"}),
        ("a=1\\", {"a": "1"}),
        ("a\\ b\\=c\\:d=e", {"a b=c:d": "e"}),
        ("a=\\t\\n\\r\\f\\z\\\\\\ ", {"a": "\t\n\r\fz\\ "}),
        ("a=\\u00e9\\uD83D\\uDE00é", {"a": "é😀é"}),
        ("=b", {"": "b"}),
        ("\\", {}),
        ("\\\n", {}),
        ("\\\n#x=y", {}),
        ("k8s=k8s\\://https\\://10.0.0.1\\:443", {"k8s": "k8s://https://10.0.0.1:443"}),
    ],
)
def test_the_forms_of_javas_documentation(text, table):
    assert parse_properties(text) == table


@pytest.mark.parametrize("text", ["a=\\u12", "a=\\u12g4", "\\u=1", "a=\\uD83D", "a=\\uDE00\\uD83D"])
def test_a_malformed_escape_is_refused_and_not_shown(text):
    with pytest.raises(ValueError) as caught:
        parse_properties(f"secret=hunter2\n{text}")
    assert "hunter2" not in str(caught.value)
    assert "D83D" not in str(caught.value)


def test_half_a_surrogate_pair_is_not_written():
    with pytest.raises(ValueError, match="surrogate"):
        write_properties({"a": "\ud83d"})


JAVA_READER = """
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;

class Read {
    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, false, "UTF-8");
        for (String path : args) {
            Properties p = new Properties();
            String text = new String(Files.readAllBytes(Paths.get(path)), StandardCharsets.UTF_8);
            try {
                p.load(new StringReader(text));
            } catch (IllegalArgumentException e) {
                out.println("refused");
                continue;
            }
            StringBuilder line = new StringBuilder();
            for (String key : p.stringPropertyNames()) {
                line.append(hex(key)).append('=').append(hex(p.getProperty(key))).append(' ');
            }
            out.println(line);
        }
        out.flush();
    }

    static String hex(String text) throws Exception {
        StringBuilder out = new StringBuilder();
        for (char c : text.toCharArray()) {
            out.append(String.format("%04x", (int) c));
        }
        return out.toString();
    }
}
"""


def units(word):
    return word.encode("utf-16-be", "surrogatepass").hex()


@pytest.mark.integration("java", "javac")
def test_java_reads_the_same(tmp_path):
    """Random texts of the characters that mean something, and tables that are written here."""
    (tmp_path / "Read.java").write_text(JAVA_READER)
    dice = random.Random(4)
    alphabet = [
        "\\",
        "\n",
        "\r",
        "=",
        ":",
        " ",
        "\t",
        "\f",
        "#",
        "!",
        "u",
        "0",
        "a",
        "t",
        "é",
        "😀",
    ]
    texts = ["".join(dice.choices(alphabet, k=dice.randrange(16))) for _ in range(400)]
    tables = [
        {"".join(dice.choices(alphabet, k=4)): "".join(dice.choices(alphabet, k=9)) for _ in "123"}
        for _ in range(100)
    ]
    texts += [write_properties(table).decode() for table in tables]
    paths = []
    for number, text in enumerate(texts):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(text.encode())
    subprocess.run(["javac", "-d", tmp_path, tmp_path / "Read.java"], check=True)
    done = subprocess.run(
        ["java", "-cp", tmp_path, "Read", *paths], check=True, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(texts)
    refused = 0
    for text, line in zip(texts, lines, strict=True):
        try:
            ours = parse_properties(text)
        except ValueError:
            assert line == "refused", json.dumps(text)
            refused += 1
            continue
        pairs = [pair.partition("=") for pair in line.split()]
        got = {key: value for key, _, value in pairs if key}
        assert got == {units(key): units(ours[key]) for key in ours if key}, json.dumps(text)
    assert 0 < refused < 200
    assert [parse_properties(text) for text in texts[400:]] == tables

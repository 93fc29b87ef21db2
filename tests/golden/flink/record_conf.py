"""Record what Flink reads from configuration files.

    .venv/bin/python tests/golden/flink/record_conf.py

writes ``conf.json`` beside this file: text and name of a file, for each Flink the properties that
it reads (null where it fails), and whether the launcher refuses the file although Flink does not.
It needs the real Flinks of ``tests/runtime_parts.py`` and a JDK that runs source files.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from runtime_parts import FLINK_VERSIONS, FlinkRuntime, debian_jdk, flink  # noqa: E402

READER = """
import java.util.*;
import org.apache.flink.configuration.*;

public class Reader {
    public static void main(String[] folders) throws Exception {
        for (String folder : folders) {
            StringBuilder out = new StringBuilder("READ ");
            try {
                Map<String, String> conf = GlobalConfiguration.loadConfiguration(folder).toMap();
                for (Map.Entry<String, String> entry : new TreeMap<>(conf).entrySet()) {
                    out.append(hex(entry.getKey())).append('=').append(hex(entry.getValue()));
                    out.append(' ');
                }
            } catch (Throwable failure) {
                out = new StringBuilder("FAILED");
            }
            System.out.println(out);
        }
    }

    static String hex(String text) throws Exception {
        StringBuilder out = new StringBuilder();
        for (byte b : text.getBytes("UTF-8")) {
            out.append(String.format("%02x", b));
        }
        return out.toString();
    }
}
"""

FLAT = {
    "comments": "# c\na.b: c # d\ne: f#g\n   # h\ni: #j\n",
    "spaces": " a :  b  c \n\td:\te: f\n\n   \n",
    "quotes are text": "a: \"b\"\nc: 'd'\ne: 'f\n",
    "colons": "a: b: c\nd: e:f\ng: http://h:1/\n",
    "the last of a key": "a: b\na: c\n",
    "no value": "a: \nb:\nc: d\n",
    "lists are text": "a: [b, c]\nd: e;'f;g'\n",
    "line ends": "a: b\r\nc: d\re: f",
    "other line ends are text": "a: b\x0bc\nd: e\x0cf\n",
    "not ASCII": "a: é 漢\né: b\n",
    "odd names": "a b: c\na.b: d\na: e\n$x: y\n",
    "markers": "a: b\\\nc: $HOME ${X}\n",
    "empty": "",
}
FLAT_REFUSED = {
    "no space after the colon": "a:b\n",
    "no colon": "a\nb: c\n",
    "no name": ": a\n",
    "a YAML marker": "---\na: b\n",
}
YAML = {
    "nested": "a:\n  b: c\n  d:\n    e: f\ng: h\n",
    "flat and nested": "a.b.c: x\na:\n  d: y\n",
    "lists": "a: [b, 'c d', \"e\"]\nf:\n  - g\n  - h i\nj:\n- k\nl: []\n",
    "quotes": "a: 'it''s'\nb: \"t\\tu\\u00e9\\\\\\\"\"\nc: '# no comment'\nd: ''\n",
    "comments": "# c\na: b # c\nd: # e\n  f: g\n  # h\n\ni: j#k\n",
    "numbers": "a: 1\nb: -5\nc: 0.25\nd: 12345678901\ne: 1.0\nf: '007'\n",
    "booleans": "a: true\nb: False\nc: TRUE\nd: yes\ne: 'true'\n",
    "text like numbers": "a: 4g\nb: 1_000\nc: 1.2.3\nd: 10ms\ne: 12:30\nf: 2001-01-01\n",
    "colons": "a: b:c\nd: http://h:1/\n",
    "an empty map": "a: {}\nb: c\n",
    "a marker": "---\na: b\n",
    "quoted names": "'a b': c\n\"d\": e\nf :\n  g : h\n",
    "not ASCII": "a: é 漢\n",
    "dashes": "a: -x\nb: --y z\nc:\n- --input\n- a b\n",
    "line ends": "a: b\r\nc:\r\n  d: e\r\n",
    "empty": "",
    "only a comment": "# a\n",
    "text with a tab": "a: b\tc\nd:\te\n",
    "twice": "a: b\na: c\n",
    "null": "a: ~\n",
    "no value": "a:\nb: c\n",
    "a word null": "a: null\n",
    "a tab": "a:\n\tb: c\n",
}
YAML_REFUSED = {
    "numbers in unusual forms": "a: 007\n",
    "hexadecimal": "a: 0x1F\n",
    "a float": "a: 1.50\n",
    "exponents": "a: 1e3\n",
    "maps in braces": "a: {b: c}\n",
    "maps in lists": "a:\n- b: c\n",
    "lists in lists": "a: [[b]]\n",
    "text over lines": "a: |\n  b\n  c\n",
    "folded text": "a: b\n  c\n",
    "anchors": "a: &x b\nc: *x\n",
    "tags": "a: !!str b\n",
    "flat over nested": "a.b: c\na:\n  b: d\n",
}


def cases() -> list[dict[str, object]]:
    """Name, file, text, and whether it is the launcher's own rule to refuse it."""
    tables = (
        *(("flink-conf.yaml", FLAT, False), ("flink-conf.yaml", FLAT_REFUSED, True)),
        *(("config.yaml", YAML, False), ("config.yaml", YAML_REFUSED, True)),
    )
    found: list[dict[str, object]] = [
        {"name": f"{file}: {name}", "file": file, "text": text, "refused": refused}
        for file, table, refused in tables
        for name, text in table.items()
    ]
    for start in json.loads((HERE / "kubernetes.json").read_text()):
        if start["kind"] != "taskmanager" and start["flink"] in FLINK_VERSIONS:
            name = f"Flink's own: {start['flink']} {start['kind']}"
            text = start["conf"]
            found.append({"name": name, "file": start["file"], "text": text, "refused": False})
    return found


def read(runtime: FlinkRuntime, files: list[dict[str, object]]) -> list[dict[str, str] | None]:
    """What a Flink reads from each."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "Reader.java")
        source.write_text(READER)
        folders = []
        for number, case in enumerate(files):
            folder = Path(name, str(number))
            folder.mkdir()
            (folder / str(case["file"])).write_bytes(str(case["text"]).encode())
            folders.append(folder)
        java = debian_jdk() / "bin" / "java"
        done = subprocess.run(
            [java, "-cp", f"{runtime.home}/lib/*", source, *folders],
            capture_output=True,
            text=True,
            check=True,
        )
    answers: list[dict[str, str] | None] = []
    for line in done.stdout.splitlines():
        if line.startswith("READ"):
            pairs = [pair.split("=") for pair in line.split()[1:]]
            answers.append(
                {bytes.fromhex(key).decode(): bytes.fromhex(value).decode() for key, value in pairs}
            )
        elif line == "FAILED":
            answers.append(None)
    assert len(answers) == len(files), done.stdout
    return answers


def main() -> None:
    """Ask every Flink about every file; Flink before 1.19 knows one name only."""
    files = cases()
    for case in files:
        case["flink"] = {}
    for version in FLINK_VERSIONS:
        known = [case for case in files if version != "1.16.3" or case["file"] != "config.yaml"]
        for case, answer in zip(known, read(flink(version), known), strict=True):
            told = case["flink"]
            assert isinstance(told, dict)
            told[version] = answer
    lines = [json.dumps(case, ensure_ascii=True) for case in files]
    (HERE / "conf.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()

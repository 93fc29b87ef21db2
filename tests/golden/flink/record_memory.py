"""Record what Flink's own helper says of memory, for configurations made from a fixed seed.

    .venv/bin/python tests/golden/flink/record_memory.py

writes ``memory.json`` beside this file: a configuration per line, and for each Flink the two lines
that BashJavaUtils gives (the JVM's options, the dynamic properties), or null where it refuses. It
needs the real Flinks and Javas of ``tests/runtime_parts.py`` and takes some minutes.
"""

import json
import random
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from runtime_parts import FLINK_VERSIONS, FlinkRuntime, flink  # noqa: E402

HELPER = "org.apache.flink.runtime.util.bash.BashJavaUtils"
COMMANDS = {"jobmanager": "GET_JM_RESOURCE_PARAMS", "taskmanager": "GET_TM_RESOURCE_PARAMS"}
MARK = "BASH_JAVA_UTILS_EXEC_RESULT:"
RANDOM_CASES = 75
"""For each role."""

SIZES = ("256m", "512mb", "600 m", "777777777", "1g", "1600m", "2 gb", "3500m", "4g", "9g", "40g")
SMALL = ("0", "1", "32m", "64 mb", "128m", "200 mebibytes", "333333k")
FRACTIONS = ("0", "0.05", "0.1", "0.123456789", "0.25", ".4", "0.7", "1e-2")

SHARED = {
    "jvm-metaspace.size": (*SMALL[2:], "256m"),
    "jvm-overhead.min": SMALL,
    "jvm-overhead.max": ("64m", "192m", "1g", "2g"),
    "jvm-overhead.fraction": FRACTIONS,
}
WHOLE = ("process.size", "flink.size")
OPTIONS = {
    "jobmanager": {
        **SHARED,
        "heap.size": SIZES,
        "off-heap.size": SMALL,
        "enable-jvm-direct-memory-limit": ("true", "false", "TRUE"),
    },
    "taskmanager": {
        **SHARED,
        "task.heap.size": SIZES,
        "managed.size": (*SIZES[:6], *SMALL[:4]),
        "managed.fraction": FRACTIONS,
        "framework.heap.size": SMALL,
        "framework.off-heap.size": SMALL,
        "task.off-heap.size": SMALL,
        "network.min": SMALL,
        "network.max": ("32m", "64m", "100m", "1g", "3g"),
        "network.fraction": FRACTIONS,
    },
}
CHOSEN = (
    ("jobmanager", {}),
    ("jobmanager", {"process.size": "4g"}),
    ("jobmanager", {"process.size": "448m"}),
    ("jobmanager", {"process.size": "576m"}),
    ("jobmanager", {"process.size": "577m"}),
    ("jobmanager", {"process.size": "100g"}),
    ("jobmanager", {"process.size": "8388608t"}),
    ("jobmanager", {"flink.size": "9223372036854775807"}),
    ("jobmanager", {"heap.size": "1g", "flink.size": "1152m"}),
    ("jobmanager", {"heap.size": "1g", "flink.size": "1152m", "off-heap.size": "128m"}),
    ("jobmanager", {"heap.size": "1g", "flink.size": "1152m", "off-heap.size": "127m"}),
    ("jobmanager", {"heap.size": "1g", "process.size": "1600m"}),
    ("jobmanager", {"heap.size": "1g", "process.size": "1408m"}),
    ("taskmanager", {}),
    ("taskmanager", {"process.size": "4g"}),
    ("taskmanager", {"process.size": "1728m"}),
    ("taskmanager", {"process.size": "448m"}),
    ("taskmanager", {"process.size": "100g"}),
    ("taskmanager", {"flink.size": "100g"}),
    ("taskmanager", {"flink.size": "1g", "task.heap.size": "300m"}),
    ("taskmanager", {"flink.size": "1g", "task.heap.size": "256m", "managed.fraction": "0.35"}),
    ("taskmanager", {"task.heap.size": "1g", "managed.size": "1g"}),
    ("taskmanager", {"task.heap.size": "1g", "managed.size": "1g", "network.fraction": "0.9"}),
    ("taskmanager", {"task.heap.size": "1g", "managed.size": "1g", "process.size": "3g"}),
    ("taskmanager", {"process.size": "4g", "managed.fraction": "0.9"}),
    ("taskmanager", {"process.size": "4g", "managed.fraction": "0.95"}),
    *(("taskmanager", {"process.size": "4g", "network.fraction": x}) for x in ("1", "1.5", "-0")),
    *(("taskmanager", {"process.size": "4g", "network.min": x}) for x in ("0.5g", "1x", "0b")),
    ("jobmanager", {"process.size": "4g", "jvm-overhead.fraction": "0.95"}),
    ("jobmanager", {"flink.size": "4g", "jvm-overhead.fraction": "0.95"}),
)
OTHER = (
    ("jobmanager", {"jobmanager.heap.size": "1024m"}),
    ("jobmanager", {"jobmanager.heap.mb": "1024"}),
    ("jobmanager", {"jobmanager.heap.size": "1g", "jobmanager.memory.heap.size": "2g"}),
    ("jobmanager", {"jobmanager.heap.size": "1g", "jobmanager.memory.process.size": "2g"}),
    ("taskmanager", {"taskmanager.heap.size": "1024m"}),
    ("taskmanager", {"taskmanager.heap.mb": "1024"}),
    ("taskmanager", {"taskmanager.heap.size": "1g", "taskmanager.memory.process.size": "2g"}),
    (
        "taskmanager",
        {
            "taskmanager.memory.process.size": "2g",
            "taskmanager.memory.size": "300m",
            "taskmanager.network.memory.min": "80m",
            "taskmanager.network.memory.max": "90m",
            "taskmanager.network.memory.fraction": "0.3",
        },
    ),
    (
        "taskmanager",
        {
            "taskmanager.memory.process.size": "2g",
            "taskmanager.numberOfTaskSlots": "4",
            "taskmanager.cpu.cores": "2.5",
        },
    ),
    (
        "taskmanager",
        {"taskmanager.memory.process.size": "2g", "taskmanager.numberOfTaskSlots": "3"},
    ),
    (
        "taskmanager",
        {"taskmanager.memory.process.size": "2g", "taskmanager.cpu.cores": "0.001"},
    ),
    ("taskmanager", {"taskmanager.memory.process.size": "2g", "external-resources": "none"}),
)


def cases() -> list[tuple[str, dict[str, str]]]:
    """Role and configuration, always the same ones."""
    found = [
        (role, {f"{role}.memory.{name}": value for name, value in conf.items()})
        for role, conf in CHOSEN
    ]
    found += OTHER
    chance = random.Random(20)
    for role, options in OPTIONS.items():
        for _ in range(RANDOM_CASES):
            names = chance.sample(sorted(options), chance.choice((0, 1, 1, 2, 2, 3)))
            conf = {name: chance.choice(options[name]) for name in names}
            for name in chance.choice((["process.size"], ["flink.size"], WHOLE, [])):
                conf[name] = chance.choice(SIZES[5:])
            found.append((role, {f"{role}.memory.{name}": conf[name] for name in sorted(conf)}))
    return found


def ask(runtime: FlinkRuntime, role: str, conf: dict[str, str]) -> list[str] | None:
    """What the helper says: two lines, or None."""
    home = runtime.home
    class_path = f"{home}/bin/bash-java-utils.jar:{home}/lib/flink-dist-{runtime.version}.jar"
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"{name}: {value}\n" for name, value in conf.items()]
        (Path(folder) / "flink-conf.yaml").write_text("".join(lines))
        done = subprocess.run(
            [
                *(runtime.java / "bin" / "java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
                *("-cp", class_path, HELPER, COMMANDS[role], "--configDir", folder),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    said = done.stdout + done.stderr
    results = [line.removeprefix(MARK) for line in said.splitlines() if line.startswith(MARK)]
    if done.returncode != 0:
        assert "IllegalConfigurationException" in said or "Exception" in said, said
        return None
    assert len(results) == 2, said
    return results


def main() -> None:
    """Ask every Flink about every configuration."""
    runtimes = [flink(version) for version in FLINK_VERSIONS]
    with ThreadPoolExecutor(2) as pool:
        asked = [
            (role, conf, [pool.submit(ask, runtime, role, conf) for runtime in runtimes])
            for role, conf in cases()
        ]
        lines = []
        for role, conf, answers in asked:
            told: dict[str, list[str] | None] = {}
            for runtime, answer in zip(runtimes, answers, strict=True):
                same = [key for key, value in told.items() if value == answer.result()]
                key = f"{same[0]} {runtime.version}" if same else runtime.version
                if same:
                    del told[same[0]]
                told[key] = answer.result()
            lines.append(json.dumps({"role": role, "conf": conf, "says": told}))
            print(f"{len(lines)}/{len(asked)}", end="\r", file=sys.stderr)
    (HERE / "memory.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()

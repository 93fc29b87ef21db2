"""The memory model: byte for byte what the helper of Flink says, refused where it refuses."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.runtime.flink_memory import job_manager, task_manager
from imagekit.runtime.flink_sizes import parse_size

GOLDEN = Path(__file__).parent.parent / "golden" / "flink"
RECORDED = [
    (case["role"], case["conf"], version, said)
    for case in json.loads((GOLDEN / "memory.json").read_text())
    for versions, said in case["says"].items()
    for version in versions.split()
]
COMPUTE = {"jobmanager": job_manager, "taskmanager": task_manager}
GIB = 1 << 30


def release(version):
    return tuple(int(part) for part in version.split("."))


def as_helper(memory):
    options = " ".join(f"-D {name}={value}" for name, value in memory.properties.items())
    return [" ".join(memory.flags()), options]


@pytest.mark.parametrize(("role", "conf", "version", "said"), RECORDED)
def test_memory_is_what_flinks_helper_says(role, conf, version, said):
    if said is None:
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            COMPUTE[role](conf, release(version))
    else:
        assert as_helper(COMPUTE[role](conf, release(version))) == said


def test_the_recorded_cases_are_of_all_kinds():
    """So that the test above does not pass because all are refused, or none."""
    assert len([said for *_, said in RECORDED if said is None]) > 50
    assert len([said for *_, said in RECORDED if said is not None]) > 150


def test_the_network_has_no_upper_bound_from_1_17_on():
    conf = {"taskmanager.memory.process.size": "100g"}
    old, new = (task_manager(conf, of) for of in ((1, 16, 3), (1, 20, 5)))
    assert old.properties["taskmanager.memory.network.max"] == f"{GIB}b"
    assert int(new.properties["taskmanager.memory.network.max"][:-1]) > 9 * GIB


def test_the_guides_numbers_for_4g():
    """BigDL's guide, in MiB: overhead 409.6, JobManager heap 3302.4; managed 1372.2, network 343,
    task heap 1459.2."""
    jobs = job_manager({"jobmanager.memory.process.size": "4096m"}, (1, 15, 4))
    tasks = task_manager({"taskmanager.memory.process.size": "4096m"}, (1, 15, 4))
    mib = {name: int(value[:-1]) / (1 << 20) for name, value in {
        **jobs.properties, **tasks.properties}.items() if value.endswith("b")}  # fmt: skip
    assert round(mib["jobmanager.memory.jvm-overhead.min"], 1) == 409.6
    assert round(jobs.heap / (1 << 20), 1) == 3302.4
    assert round(mib["taskmanager.memory.managed.size"], 1) == 1372.2
    assert round(mib["taskmanager.memory.network.max"], 1) == 343.0
    assert round(mib["taskmanager.memory.task.heap.size"], 1) == 1459.2


SIZES = st.sampled_from(("0", "64m", "128m", "300m", "1g", "2g", "4g", "9g", "1x", "", "-1"))
FRACTIONS = st.sampled_from(("0", "0.1", "0.4", "0.9", "0.99999999", "1", "x", "1e99"))
NAMES = (
    *("process.size", "flink.size", "jvm-metaspace.size", "jvm-overhead.min", "jvm-overhead.max"),
    *("heap.size", "off-heap.size", "task.heap.size", "task.off-heap.size", "managed.size"),
    *("framework.heap.size", "framework.off-heap.size", "network.min", "network.max"),
)  # fmt: skip
CONFS = st.builds(
    lambda role, sizes, fractions: (
        role,
        {f"{role}.memory.{name}": value for name, value in {**sizes, **fractions}.items()},
    ),
    st.sampled_from(("jobmanager", "taskmanager")),
    st.dictionaries(st.sampled_from(NAMES), SIZES),
    st.dictionaries(
        st.sampled_from(("jvm-overhead.fraction", "network.fraction", "managed.fraction")),
        FRACTIONS,
    ),
)


@given(CONFS)
def test_a_configuration_is_refused_in_one_line_or_its_parts_are_the_whole(case):
    role, conf = case
    try:
        memory = COMPUTE[role](conf, (1, 20, 5))
    except ValueError as error:
        assert "\n" not in str(error)
        return
    sizes = {
        name.partition(".memory.")[2]: int(value[:-1])
        for name, value in memory.properties.items() if value.endswith("b")
    }  # fmt: skip
    assert min(sizes.values()) >= 0
    assert sizes.pop("jvm-overhead.min") == sizes["jvm-overhead.max"]
    if role == "taskmanager":
        assert sizes.pop("network.min") == sizes["network.max"]
    assert sum(sizes.values()) == memory.total
    for name in ("process.size", "flink.size"):
        if f"{role}.memory.{name}" in conf:
            flink = memory.total - memory.metaspace - sizes["jvm-overhead.max"]
            whole = memory.total if name == "process.size" else flink
            assert whole == parse_size(name, conf[f"{role}.memory.{name}"])


@given(CONFS)
def test_what_was_computed_is_computed_again_from_itself(case):
    """Flink on Kubernetes passes all parts on; they have to come out as they went in."""
    role, conf = case
    try:
        memory = COMPUTE[role](conf, (1, 20, 5))
    except ValueError:
        return
    again = COMPUTE[role](memory.properties, (1, 20, 5))
    direct = again.direct if role == "jobmanager" else memory.direct
    assert again._replace(direct=direct) == memory._replace(direct=direct)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024", 1024), ("1k", 1024), ("2 kb", 2048), ("3 KibiBytes", 3072), ("1m", 1 << 20),
        ("4g", 4 * GIB), ("1 tebibytes", 1 << 40), ("0", 0), (" 5 bytes ", 5),
        ("9223372036854775807", (1 << 63) - 1),
    ],
)  # fmt: skip
def test_sizes_as_flink_writes_them(text, size):
    assert parse_size("x", text) == size


@pytest.mark.parametrize(
    "text", ["", "g", "1.5g", "-1", "1x", "1 g b", "9223372036854775808", "8388608t", "\u0661"]
)
def test_what_is_no_size_is_refused_without_showing_it(text):
    with pytest.raises(ValueError, match=r"^a\.b is not a size such as 4g or 512m$"):
        parse_size("a.b", text)


@pytest.mark.parametrize(
    ("conf", "line"),
    [
        ({"external-resources": "gpu"}, "external-resources"),
        ({"taskmanager.network.numberOfBuffers": "2048"}, "numberOfBuffers is not supported"),
        ({"taskmanager.numberOfTaskSlots": "0"}, "numberOfTaskSlots is not"),
        ({"taskmanager.cpu.cores": "1e9"}, "cpu.cores is not"),
        ({"taskmanager.memory.network.fraction": "NaN"}, "network.fraction is not"),
        (
            {"taskmanager.memory.network.min": "2g", "taskmanager.memory.network.max": "1g"},
            "do not fit",
        ),
    ],
)
def test_what_an_enclave_cannot_have_or_flink_does_not_know_is_refused(conf, line):
    with pytest.raises(ValueError, match=line):
        task_manager({"taskmanager.memory.process.size": "4g", **conf}, (1, 20, 5))

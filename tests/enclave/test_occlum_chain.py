"""From the measured library to the files: every link of Occlum's chain, whole and broken."""

import copy
import json
import struct
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from occlum_documents import document
from protected_files import protected_file
from sdk_enclaves import (
    BUILTIN_CONFIG,
    Recipe,
    make_enclave,
    patch_builtin_config,
    section_range,
)

from imagekit.enclave.occlum.chain import (
    WHAT_IS_PINNED,
    InstanceParts,
    builtin_mac,
    check_chain,
)
from imagekit.enclave.occlum.config import read_occlum_config
from imagekit.enclave.occlum.internal import ChainCheck, compare_config
from imagekit.enclave.occlum.protected_file import mac_text
from imagekit.enclave.occlum.versions import BIGDL, NEWEST
from imagekit.enclave.sdk.image import read_image
from imagekit.enclave.sdk.signed import read_enclave
from imagekit.errors import InputError

SYSTEM = ".Occlum_sys.json.protected"
PLAIN = make_enclave()
DOCUMENT = document(
    NEWEST,
    env__default=["OCCLUM=yes", "A=b=c"],
    env__untrusted=["NAME", "OTHER"],
    entry_points=["/opt/app", "/bin"],
    metadata__disable_log=True,
    feature__io_uring=4,
)
CONFIG = read_occlum_config(DOCUMENT, NEWEST)
IMAGE_FILE, IMAGE_MAC = protected_file("metadata", b"names and tags of the image " * 300)
INITFS_FILE, INITFS_MAC = protected_file("metadata", b"of the start-up file system")
OTHER_FILE, OTHER_MAC = protected_file("metadata", b"another file system")


def internal(image: object = IMAGE_MAC, initfs: object = INITFS_MAC) -> dict[str, Any]:
    """Occlum's own configuration of DOCUMENT, in the shape that is known of it."""

    def root(name: str, mac: object) -> dict[str, Any]:
        source = f"./build/{name}/__ROOT"
        layers = [
            {"target": "/", "type": "sefs", "source": source, "options": {"MAC": mac}},
            {"target": "/", "type": "sefs", "source": f"./run/{name}/__ROOT"},
        ]
        return {"target": "/", "type": "unionfs", "options": {"layers": layers}}

    added = [{"target": "/proc", "type": "procfs"}, {"target": "/dev", "type": "devfs"}]
    return {
        "process": dict(DOCUMENT["process"]),
        "resource_limits": {"user_space_size": "300MB"},
        "env": copy.deepcopy(DOCUMENT["env"]),
        "disable_log": True,
        "feature": dict(DOCUMENT["feature"]),
        "app": [
            {"entry_points": ["/bin"], "mount": [root("initfs", initfs)]},
            {"entry_points": ["/opt/app", "/bin"], "mount": [root("mount", image), *added]},
        ],
    }


def library(tag: str, end: str = "\n") -> bytes:
    return patch_builtin_config(PLAIN, f"{tag}{end}".encode())


def instance(own: object = None, **changed: Any) -> InstanceParts:
    """An instance, all of whose links hold unless something is given."""
    content = own if isinstance(own, bytes) else json.dumps(own or internal()).encode()
    data, mac = protected_file(SYSTEM, content)
    parts = {
        "library": read_enclave(library(mac), "libos.so"),
        "system_config": data,
        "config": CONFIG,
        "root_mac": f"{IMAGE_MAC}\n".encode(),
        "initfs_mac": INITFS_MAC.encode(),
        "root_metadata": IMAGE_FILE,
        "initfs_metadata": INITFS_FILE,
    }
    return InstanceParts(**(parts | changed))


def not_ok(parts: InstanceParts) -> list[ChainCheck]:
    return [check for check in check_chain(parts) if check.state != "ok"]


def the_one(parts: InstanceParts) -> ChainCheck:
    found = not_ok(parts)
    assert len(found) == 1, found
    assert found[0].line.isprintable() and found[0].reason
    return found[0]


def test_a_whole_instance():
    checks = check_chain(instance())
    assert [check.line for check in checks if check.state != "ok"] == []
    names = [check.name for check in checks]
    assert len(set(names)) == len(names) == 13
    assert f"tag of {SYSTEM} in the enclave" in names
    assert "mounts as in Occlum.json" in names


@pytest.mark.parametrize("end", ["", "\n"])
def test_the_tag_in_the_library_ends_either_way(end):
    parts = instance()
    mac = builtin_mac(parts.library.image)
    parts = replace(parts, library=read_enclave(library(mac_text(mac), end), "x"))
    assert not_ok(parts) == []


# -- the link from the library


def test_another_configuration_than_the_built_in_one():
    parts = instance(library=read_enclave(library(OTHER_MAC), "libos.so"))
    check = the_one(parts)
    assert check.state == "failed"
    assert OTHER_MAC in check.reason


def test_a_library_that_was_never_filled():
    check = the_one(instance(library=read_enclave(PLAIN, "libos.so")))
    assert check.state == "failed"
    assert ".builtin_config" in check.reason and "is no tag" in check.reason


def test_a_library_without_the_section():
    bare = read_enclave(make_enclave(Recipe(builtin_config=None)), "libos.so")
    check = the_one(instance(library=bare))
    assert check.state == "failed" and "no section .builtin_config" in check.reason


def moved_section(data: bytes, **fields: int) -> bytes:
    """The same file, with other values in the section's header."""
    offset, _ = section_range(data, BUILTIN_CONFIG)
    (table,) = struct.unpack_from("<Q", data, 40)
    (count,) = struct.unpack_from("<H", data, 60)
    places = {"kind": (4, "<I"), "address": (16, "<Q"), "offset": (24, "<Q"), "size": (32, "<Q")}
    image = bytearray(data)
    for number in range(count):
        start = table + 64 * number
        if struct.unpack_from("<Q", data, start + 24)[0] == offset:
            for name, value in fields.items():
                place, form = places[name]
                struct.pack_into(form, image, start + place, value)
            return bytes(image)
    raise AssertionError("no such section")


def test_a_section_that_is_not_measured_is_not_believed():
    """A text behind what is loaded, or elsewhere in memory, changes no measurement."""
    good = library(IMAGE_MAC)
    offset, size = section_range(good, BUILTIN_CONFIG)
    behind = good + good[offset : offset + size]
    for broken in (
        moved_section(behind, offset=len(good)),
        moved_section(behind, offset=len(good), address=0),
        moved_section(good, address=0),
        moved_section(good, address=1 << 46),
        moved_section(good, kind=8),
        moved_section(good, size=46),
        moved_section(good, kind=0),
    ):
        with pytest.raises(InputError):
            builtin_mac(read_image(broken, "x"))
    assert mac_text(builtin_mac(read_image(good, "x"))) == IMAGE_MAC


def test_a_section_that_holds_more_is_not_believed():
    good = library(IMAGE_MAC)
    with pytest.raises(InputError, match="holds more than a tag"):
        builtin_mac(read_image(library(IMAGE_MAC, "x"), "x"))
    longer = moved_section(good, size=80)
    with pytest.raises(InputError):
        builtin_mac(read_image(longer, "x"))


# -- the configuration


def test_without_a_configuration_nothing_else_is_judged():
    checks = check_chain(instance(system_config=None))
    assert [(check.state, "missing" in check.reason) for check in checks] == [
        ("failed", True),
        ("unchecked", True),
    ]


def test_a_damaged_configuration():
    data = bytearray(instance().system_config or b"")
    data[700] ^= 1
    for broken in (bytes(data), bytes(data[:-1]), b"", b"{}"):
        checks = check_chain(instance(system_config=broken))
        assert [check.state for check in checks] == ["failed", "failed"]


def test_a_configuration_under_another_name_is_not_opened():
    data, mac = protected_file("other.protected", json.dumps(internal()).encode())
    parts = instance(system_config=data, library=read_enclave(library(mac), "x"))
    check = the_one(parts)
    assert check.state == "failed"
    assert "was written as 'other.protected'" in check.reason


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"app": [], "app": []}', b"[" * 50_000, b"\xff", b"1" * 9999],
)
def test_a_configuration_that_is_no_json(content):
    data, mac = protected_file(SYSTEM, content)
    parts = instance(system_config=data, library=read_enclave(library(mac), "x"))
    states = [check.state for check in check_chain(parts)]
    assert states == ["ok", "failed"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["app", "mount", "target", "type", "options", "layers", "MAC", "env", "default"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((*path, key))
        if isinstance(inner, dict | list):
            found += paths(inner, (*path, key))
    return found


def with_value(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    own = internal()
    place: Any = own
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return own


@hypothesis.given(st.sampled_from(paths(internal())), JSON)
def test_hostile_values_anywhere_give_checks_alone(path, value):
    checks = check_chain(instance(with_value(path, value)))
    assert all(check.line.isprintable() for check in checks)
    assert all(bool(check.reason) == (check.state != "ok") for check in checks)


@hypothesis.given(JSON)
def test_hostile_documents_give_checks_alone(own):
    checks = check_chain(instance(json.dumps(own).encode()))
    assert not any("Traceback" in check.line for check in checks)
    # Nothing that a document of no shape has can count as the right entry points and mounts.
    states = {check.name: check.state for check in checks}
    assert states.get("mounts as in Occlum.json") != "ok"
    assert states.get("entry points as in Occlum.json") != "ok"


# -- the link to the file systems


@pytest.mark.parametrize("name", ["mount", "initfs"])
def test_another_file_system_than_the_configuration_names(name):
    of = {"mount": "root_metadata", "initfs": "initfs_metadata"}[name]
    found = not_ok(instance(**{of: OTHER_FILE}))
    assert [check.state for check in found] == ["failed", "failed"]
    assert found[0].name == f"tag of build/{name} in Occlum's own configuration"
    assert f"build/{name}/__ROOT/metadata has {OTHER_MAC}" in found[0].reason
    assert found[1].name == f"tag in build/{name}/.ROOT_MAC"


@pytest.mark.parametrize("name", ["mount", "initfs"])
@pytest.mark.parametrize("data", [None, b"", b"x" * 4096, IMAGE_FILE[:-4096]])
def test_a_file_system_that_is_missing_or_damaged(name, data):
    of = {"mount": "root_metadata", "initfs": "initfs_metadata"}[name]
    check = the_one(instance(**{of: data}))
    assert check.state == "failed"
    assert f"build/{name}/__ROOT/metadata" in check.reason


def test_a_file_system_under_another_name_is_not_opened():
    data, mac = protected_file("other", b"names")
    check = the_one(instance(internal(image=mac), root_metadata=data, root_mac=mac.encode()))
    assert check.state == "failed" and "was written as 'other'" in check.reason


def encrypted(data: bytes) -> bytes:
    """The same file, saying that it is encrypted."""
    return data[:94] + b"\0" + data[95:]


def test_an_encrypted_image_cannot_be_checked_and_is_not_taken_for_right():
    check = the_one(instance(root_metadata=encrypted(IMAGE_FILE)))
    assert check.state == "unchecked"
    assert "cannot be checked: build/mount/__ROOT/metadata: an encrypted" in check.reason


def test_the_start_up_file_system_is_never_encrypted():
    check = the_one(instance(initfs_metadata=encrypted(INITFS_FILE)))
    assert check.state == "failed" and "an encrypted protected file" in check.reason


@pytest.mark.parametrize("data", [encrypted(IMAGE_FILE), None])
def test_without_the_file_the_tag_beside_it_is_held_against_the_configuration(data):
    noted = "tag in build/mount/.ROOT_MAC"
    parts = instance(root_metadata=data)
    assert the_one_of(parts, noted).state == "ok"
    wrong = the_one_of(replace(parts, root_mac=OTHER_MAC.encode()), noted)
    assert wrong.state == "failed"
    assert OTHER_MAC in wrong.reason and f"app[1] has {IMAGE_MAC}" in wrong.reason


@pytest.mark.parametrize("mac", ["", "x", IMAGE_MAC + "\n\n", 5, [], {"a": 1}, True])
def test_a_configuration_with_no_tag_in_its_place(mac):
    check = the_one(instance(internal(image=mac)))
    assert check.state == "failed" and "is no tag" in check.reason


def test_a_configuration_without_a_place_for_the_tag_is_not_taken_for_right():
    own = internal()
    del own["app"][1]["mount"][0]["options"]["layers"][0]["options"]
    check = the_one(instance(own))
    assert check.state == "unchecked"
    assert "cannot be checked" in check.reason


def test_two_file_systems_at_the_root():
    own = internal()
    layers = own["app"][1]["mount"][0]["options"]["layers"]
    layers.insert(0, copy.deepcopy(layers[0]))
    found = not_ok(instance(own))
    assert [check.state for check in found] == ["failed", "failed"]
    assert "more than one root file system" in found[0].reason
    assert found[1].name == "mounts as in Occlum.json"


@pytest.mark.parametrize("name", ["root_mac", "initfs_mac"])
def test_the_file_with_the_tag(name):
    assert the_one(instance(**{name: None})).state == "unchecked"
    wrong = the_one(instance(**{name: OTHER_MAC.encode()}))
    assert wrong.state == "failed" and OTHER_MAC in wrong.reason
    assert the_one(instance(**{name: b"no tag"})).state == "failed"


# -- the configuration against Occlum.json


def of_app(key: str, value: object) -> dict[str, Any]:
    return with_value(("app", 1, key), value)


HOST = {"target": "/host", "type": "hostfs", "source": "."}
MOUNTS = internal()["app"][1]["mount"]
DIFFERING = {
    "entry point added": (of_app("entry_points", ["/opt/app", "/bin", "/"]), "has '/', which"),
    "entry point missing": (of_app("entry_points", ["/opt/app"]), "lacks '/bin'"),
    "entry points reversed": (of_app("entry_points", ["/bin", "/opt/app"]), "another order"),
    "entry point twice": (of_app("entry_points", ["/opt/app", "/bin", "/bin"]), "or number"),
    "entry point without a name": (of_app("entry_points", ["/opt/app", "/bin", ""]), "has ''"),
    "entry points no list": (of_app("entry_points", "/bin"), "is no list"),
    "other entry points at the top": (internal() | {"entry_points": ["/"]}, "has '/'"),
    "variable added": (with_value(("env", "default"), ["OCCLUM=yes", "A=b=c", "X=1"]), "'X=1'"),
    "variable changed": (with_value(("env", "default"), ["OCCLUM=yes", "A=b"]), "'A=b'"),
    "name added": (with_value(("env", "untrusted"), ["NAME", "OTHER", "LD_PRELOAD"]), "LD_PRELOAD"),
    "a name that is empty": (with_value(("env", "untrusted"), ["NAME", "OTHER", ""]), "has ''"),
    "another environment": (of_app("env", {"untrusted": ["LD_PRELOAD"]}), "LD_PRELOAD"),
    "stack": (with_value(("process", "default_stack_size"), "8MB"), "'8MB'"),
    "stack in bytes": (with_value(("process", "default_stack_size"), 4 << 20 | 1), "4194305"),
    "heap no size": (with_value(("process", "default_heap_size"), "lots"), "'lots'"),
    "user space": (with_value(("resource_limits", "user_space_size"), "1GB"), "'1GB'"),
    "log": (with_value(("disable_log",), False), "says False"),
    "log as number": (with_value(("disable_log",), 1), "says 1"),
    "feature": (with_value(("feature", "io_uring"), 5), "says 5"),
    "host mount": (of_app("mount", [*MOUNTS, HOST]), "'hostfs' at '/host'"),
    "file system added": (of_app("mount", [*MOUNTS, HOST | {"type": "ext2"}]), "'ext2'"),
    "mount missing": (of_app("mount", MOUNTS[1:]), "'unionfs' at '/'"),
    "mount twice": (of_app("mount", [*MOUNTS, MOUNTS[1]]), "two file systems at '/proc'"),
    "/proc elsewhere too": (of_app("mount", [*MOUNTS, MOUNTS[1] | {"target": "/"}]), "at '/'"),
    "mounts no list": (of_app("mount", {"a": 1}), "no list of mounts"),
    "no mount": (of_app("mount", [*MOUNTS, "x"]), "no list of mounts"),
}


@pytest.mark.parametrize("name", DIFFERING)
def test_what_differs_from_the_document_is_found(name):
    own, words = DIFFERING[name]
    failed = [check for check in not_ok(instance(own)) if check.state == "failed"]
    assert failed, "the difference went unnoticed"
    assert any(words in check.reason for check in failed), failed


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("app", 1, "entry_points"), "entry points"),
        (("env", "default"), "variables with fixed values"),
        (("env", "untrusted"), "variables of the host's"),
        (("process",), "sizes of processes"),
        (("resource_limits",), "user space"),
        (("disable_log",), "log setting"),
        (("feature",), "features"),
    ],
)
def test_what_is_not_there_is_not_taken_for_right(path, name):
    for value in (None, {}) if name not in ("entry points", "log setting") else (None,):
        found = the_one_of(instance(with_value(path, value)), f"{name} as in Occlum.json")
        assert found.state in (("unchecked",) if value is None else ("unchecked", "failed"))
        assert found.state == "failed" or "cannot be checked" in found.reason


def the_one_of(parts: InstanceParts, name: str) -> ChainCheck:
    return next(check for check in check_chain(parts) if check.name == name)


def test_an_absent_list_of_mounts_is_not_taken_for_right():
    own = internal()
    del own["app"][1]["mount"]
    found = not_ok(instance(own))
    assert {check.state for check in found} == {"unchecked"}
    assert len(found) == 2


@pytest.mark.parametrize("kind", ["ramfs", "procfs", "devfs"])
def test_a_file_system_that_may_hide_files_is_not_taken_for_right(kind):
    """Whether the build adds more of these than is known is not known."""
    check = the_one(instance(of_app("mount", [*MOUNTS, {"target": "/etc", "type": kind}])))
    assert check.state == "unchecked"
    assert f"{kind!r} at '/etc', which may hide files" in check.reason


class Counted(str):
    """A text that counts how often texts are compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize(
    ("path", "items"),
    [
        (("app", 1, "entry_points"), lambda texts: texts),
        (("env", "default"), lambda texts: texts),
        (
            ("app", 1, "mount"),
            lambda texts: [*MOUNTS, *({"target": text, "type": "ramfs"} for text in texts)],
        ),
    ],
)
def test_long_lists_take_no_more_than_their_length(path, items):
    """A document of 1 MiB has ten thousands of them; each against each would take minutes."""
    texts = [Counted(f"/{number}") for number in range(3000)]
    config = replace(
        CONFIG,
        entry_points=tuple(texts),
        env_default=tuple((text, "") for text in texts),
    )
    Counted.compared = 0
    checks = list(compare_config(with_value(path, items(list(reversed(texts)))), config))
    assert any(check.state != "ok" for check in checks)
    assert Counted.compared < 20 * len(texts)


def test_other_spellings_of_the_same():
    own = with_value(("process", "default_stack_size"), 4 << 20)
    own["process"]["default_heap_size"] = " 32 MB"
    own["env"]["default"].append("")  # as BigDL's document has it
    own["env"] = {"default": own["env"]["default"]}
    own["app"][1]["env"] = {"untrusted": ["NAME", "OTHER"]}
    own["resource_limits"] = {"user_space_size": 300 << 20, "unknown": []}
    assert not_ok(instance(own)) == []


def test_before_there_were_features_they_are_not_asked_for():
    config = read_occlum_config(document(BIGDL), BIGDL)
    own = internal()
    del own["feature"], own["disable_log"]
    names = {check.name for check in check_chain(instance(own, config=config))}
    assert not any("feature" in name or "log setting" in name for name in names)


def test_a_host_mount_of_the_document_is_expected():
    both = document(NEWEST)
    both["mount"].append(HOST)
    config = read_occlum_config(both, NEWEST)
    name = "mounts as in Occlum.json"
    own = of_app("mount", [*MOUNTS, HOST])
    assert the_one_of(instance(own, config=config), name).state == "ok"
    lacking = the_one_of(instance(config=config), name)
    assert lacking.state == "failed" and "'hostfs' at '/host'" in lacking.reason


def test_what_is_said_of_the_measurement():
    text = " ".join(WHAT_IS_PINNED)
    for words in (
        *("pins", "only against accidents", "same tag", "SHA-256", "does not cover"),
        *("encrypted image", "never encrypted"),
    ):
        assert words in text
    assert all(line.isascii() and len(line) < 300 for line in WHAT_IS_PINNED)

"""What a manifest may hold, what may be signed; any TOML gives findings, never an exception."""

import copy
import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.enclave.legacy_keys import legacy_keys
from imagekit.enclave.manifest_rules import schema_findings, signing_findings
from imagekit.errors import UsageError

GOLDEN = Path(__file__).parent.parent / "golden" / "gramine"
NEGATIVE = json.loads((GOLDEN / "negative.json").read_text())["cases"]
# About the template or the file tree, not about the manifest.
NOT_THE_MANIFEST = {"undefined-variable", "toml-syntax", "missing-file", "dir-without-slash"}
HASH = "0123456789abcdef" * 4

GOOD = {
    "libos": {"entrypoint": "/bin/app"},
    "loader": {"entrypoint": {"uri": "file:/opt/libsysdb.so", "sha256": HASH}},
    "fs": {"mounts": [{"path": "/bin/app", "uri": "file:/bin/app"}]},
    "sgx": {"enclave_size": "64M", "max_threads": 8, "trusted_files": ["file:/bin/app"]},
}
OLD = {
    "libos": {"entrypoint": "/bin/app"},
    "loader": {"entrypoint": "file:/opt/libsysdb.so"},
    "fs": {"mounts": [{"path": "/bin/app", "uri": "file:/bin/app"}]},
    "sgx": {"enclave_size": "64M", "thread_num": 8},
}


def with_value(key, value, base=GOOD):
    manifest = copy.deepcopy(base)
    table = manifest
    *path, last = key.split("/")
    for name in path:
        table = table.setdefault(name, {})
    table[last] = value
    return manifest


def errors(findings):
    return [f for f in findings if f.severity == "error"]


def about(findings, key):
    found = [f for f in findings if f.key == key]
    assert found, [f.line for f in findings]
    return found[0]


def test_a_good_manifest_has_no_findings():
    assert signing_findings(GOOD, "1.9") == ()
    assert signing_findings(OLD, "1.3") == ()


def test_unknown_release_is_a_usage_error():
    with pytest.raises(UsageError):
        schema_findings(GOOD, "0.5")


@pytest.mark.parametrize(
    "case", [c for c in NEGATIVE if c["name"] not in NOT_THE_MANIFEST], ids=lambda c: c["name"]
)
def test_what_stock_tools_refuse_or_wrongly_accept_is_an_error(case):
    manifest = tomllib.loads(case["template"])
    found = errors(signing_findings(manifest, "1.9"))
    assert found
    signer = case.get("gramine-sgx-sign")
    refused = (
        case["gramine-manifest --no-check"]["exit_code"] if not signer else signer["exit_code"]
    )
    assert any(f.stock for f in found) == bool(refused)
    if not signer or "failed validation" in case["gramine-manifest"]["message"]:
        assert "two-hashes" in case["name"] or errors(schema_findings(manifest, "1.9"))


@pytest.mark.parametrize("folder", sorted(p.name for p in GOLDEN.iterdir() if p.is_dir()))
def test_what_stock_tools_rightly_sign_has_no_errors(folder):
    manifest = tomllib.loads((GOLDEN / folder / "app.manifest.sgx").read_text())
    found = errors(signing_findings(manifest, "1.3" if folder.startswith("l") else "1.9"))
    expected = ["sgx.cpu_features.avx512"] if folder == "n11-avx-trap" else []
    assert [f.key for f in found] == expected


@pytest.mark.parametrize(
    ("text", "stock", "hint"),
    [
        ("16g", True, '"16G"'),
        ("16GB", True, '"16G"'),
        ("16Gi", True, '"16G"'),
        ("12G", False, '"8G" and "16G"'),
        ("0", True, ""),
        ("-4G", True, ""),
        ("2048G", False, '"1024G"'),
        ("1M", True, ""),
        ("", True, ""),
        ("four", True, ""),
    ],
)
def test_enclave_size(text, stock, hint):
    found = about(signing_findings(with_value("sgx/enclave_size", text), "1.9"), "sgx.enclave_size")
    assert (found.severity, found.stock) == ("error", stock)
    assert hint in found.hint


def test_enclave_size_as_hexadecimal_bytes_is_right():
    assert signing_findings(with_value("sgx/enclave_size", "0x4000000"), "1.9") == ()


def test_room_for_the_threads_is_part_of_the_size():
    manifest = with_value("sgx/max_threads", 1024)
    assert "1024 threads" in about(signing_findings(manifest, "1.9"), "sgx.enclave_size").problem


@pytest.mark.parametrize(
    ("threads", "stock"), [(0, False), (4097, False), (-1, False), ("8", True)]
)
def test_threads_outside_1_to_4096(threads, stock):
    found = about(
        signing_findings(with_value("sgx/max_threads", threads), "1.9"), "sgx.max_threads"
    )
    assert (found.severity, found.stock) == ("error", stock)


@pytest.mark.parametrize(
    ("key", "value", "where", "stock"),
    [
        ("sgx/debug", 1, "sgx.debug", False),
        ("sgx/isvsvn", 65536, "sgx.isvsvn", True),
        ("sgx/isvprodid", -1, "sgx.isvprodid", True),
        ("sgx/isvprodid", True, "sgx.isvprodid", False),
        ("sgx/enable_stats", True, "sgx.enable_stats", False),
        ("sgx/vtune_profile", True, "sgx.vtune_profile", False),
        ("sgx/sigfile", "app.sig", "sgx.sigfile", False),
        ("sgx/remote_attestation", True, "sgx.remote_attestation", False),
        ("sgx/trusted_files", {"a": "file:/a"}, "sgx.trusted_files", True),
        ("sgx/trusted_files", [7], "sgx.trusted_files[0]", True),
        ("sgx/trusted_files", [{"sha256": HASH}], "sgx.trusted_files[0].uri", True),
        ("sgx/trusted_files", ["dev:/dev/x"], "sgx.trusted_files[0]", True),
        (
            "sgx/trusted_files",
            [{"uri": "file:/a", "sha256": HASH[1:]}],
            "sgx.trusted_files[0].sha256",
            False,
        ),
        (
            "sgx/trusted_files",
            [{"uri": "file:/a/", "sha256": HASH}],
            "sgx.trusted_files[0]",
            True,
        ),
        ("sgx/allowed_files", ["file:/bin//app"], "sgx.allowed_files[0]", False),
        ("sgx/allowed_files", ["/tmp"], "sgx.allowed_files[0]", False),
        ("sgx", 3, "sgx", True),
        ("loader", [], "loader", True),
        ("loader/log_level", "verbose", "loader.log_level", False),
        ("loader/entrypoint", {"uri": "/opt/x"}, "loader.entrypoint.uri", False),
        ("loader/argv", [], "loader.argv", False),
        ("loader/argv", ["a", 1], "loader.argv[1]", False),
        ("loader/env", {"A": 1}, "loader.env.A", False),
        ("loader/env", {"A": {"passthrough": False}}, "loader.env.A.passthrough", False),
        ("loader/env", {"A": {"passthrough": True, "value": "x"}}, "loader.env.A", False),
        ("loader/env", {"A": {}}, "loader.env.A", False),
        ("loader/env", {"A=B": "x"}, 'loader.env."A=B"', False),
        ("libos/entrypoint", "file:/bin/app", "libos.entrypoint", False),
        ("fs/mounts", [{"path": "bin", "uri": "file:/bin"}], "fs.mounts[0].path", False),
        ("fs/mounts", [{"path": "/", "uri": "file:/"}], "fs.mounts[0].path", False),
        ("fs/mounts", [{"path": "/a"}], "fs.mounts[0].uri", False),
        ("fs/mounts", [{"type": "nfs", "path": "/a"}], "fs.mounts[0].type", False),
        (
            "fs/mounts",
            [{"path": "/a", "uri": "file:/a", "key_name": "k"}],
            "fs.mounts[0].key_name",
            False,
        ),
        (
            "fs/mounts",
            [{"type": "encrypted", "path": "/a", "uri": "file:/a", "key_name": "_sgx_mr"}],
            "fs.mounts[0].key_name",
            False,
        ),
        (
            "fs/mounts",
            [
                {"type": "encrypted", "path": "/a", "uri": "file:/d"},
                {"type": "encrypted", "path": "/b", "uri": "file:/d/e"},
            ],
            "fs.mounts[1].uri",
            False,
        ),
        ("fs/insecure__keys", {"k": "short"}, "fs.insecure__keys.k", False),
        ("sys/stack", {"size": "2q"}, "sys.stack.size", False),
    ],
)
def test_single_errors(key, value, where, stock):
    found = about(errors(signing_findings(with_value(key, value), "1.9")), where)
    assert found.stock is stock
    assert found.hint


def test_debug_as_a_number_says_what_comes_of_it():
    assert "disagree" in about(schema_findings(with_value("sgx/debug", 1), "1.9"), "sgx.debug").hint


def test_statistics_in_a_debug_enclave_are_only_warned_of():
    manifest = with_value("sgx/enable_stats", True)
    manifest["sgx"]["debug"] = True
    assert not errors(signing_findings(manifest, "1.9"))
    assert {f.key for f in signing_findings(manifest, "1.9")} == {"sgx.debug", "sgx.enable_stats"}


def test_preheating_and_edmm_exclude_each_other():
    manifest = with_value("sgx/preheat_enclave", True)
    manifest["sgx"]["edmm_enable"] = True
    assert errors(signing_findings(manifest, "1.9"))


def test_avx_traps_in_both_directions():
    for avx, avx512 in (("required", "disabled"), ("disabled", "required")):
        manifest = with_value("sgx/cpu_features", {"avx": avx, "avx512": avx512})
        assert [f.stock for f in errors(signing_findings(manifest, "1.9"))] == [False]


def test_only_one_source_of_arguments():
    manifest = with_value("loader/argv", ["app"])
    manifest["loader"]["argv_src_file"] = "file:/bin/app"
    assert "only one" in about(signing_findings(manifest, "1.9"), "loader").problem


def test_argument_file_that_nobody_trusts_is_warned_of():
    manifest = with_value("loader/argv_src_file", "file:/x")
    about(signing_findings(manifest, "1.9"), "loader.argv_src_file")
    manifest["sgx"]["trusted_files"].append("file:/x")
    assert signing_findings(manifest, "1.9") == ()


def test_passthrough_beside_host_environment_has_no_effect():
    manifest = with_value("loader/env", {"A": {"passthrough": True}})
    assert signing_findings(manifest, "1.9") == ()
    manifest["loader"]["insecure__use_host_env"] = True
    assert about(signing_findings(manifest, "1.9"), "loader.env.A").severity == "warning"


@pytest.mark.parametrize(
    ("key", "value", "names"),
    [
        ("sgx/thread_num", 64, "max_threads"),
        ("sgx/nonpie_binary", True, "1.5"),
        ("sgx/static_address", 1, "Graphene"),
        ("sgx/allow_file_creation", True, "Graphene"),
        ("sgx/ra_client_spid", "", "EPID"),
        ("sgx/require_avx", True, "cpu_features.avx"),
        ("sgx/support_exinfo", True, "use_exinfo"),
        ("sgx/require_exinfo", True, "use_exinfo"),
        ("sgx/protected_files", ["file:/x"], "encrypted"),
        ("sgx/allowed_ioctls", [], "sys.allowed_ioctls"),
        ("sgx/ioctl_structs", {}, "sys.ioctl_structs"),
        ("loader/pal_internal_mem_size", "512M", "1.5"),
        ("loader/insecure_disable_aslr", True, "two underscores"),
        ("loader/preload", "file:/x", "loader.entrypoint"),
        ("fs/mount", {}, "fs.mounts"),
        ("loader/entrypoint", "file:/x", "loader.entrypoint.uri"),
    ],
)
def test_keys_of_older_releases_are_explained(key, value, names):
    found = errors(schema_findings(with_value(key, value), "1.9"))
    assert [f.key for f in found] == [key.replace("/", ".")]
    assert names in found[0].problem + found[0].hint


@pytest.mark.parametrize(
    ("key", "value", "names"),
    [
        ("sgx/max_threads", 64, "sgx.thread_num"),
        ("sgx/use_exinfo", True, "support_exinfo"),
        ("sgx/edmm_enable", True, "1.4"),
        ("sys/disallow_subprocesses", True, "1.5"),
        ("sgx/cpu_features", {}, "require_avx"),
    ],
)
def test_keys_of_later_releases_are_explained_to_users_of_1_3(key, value, names):
    found = errors(schema_findings(with_value(key, value, OLD), "1.3"))
    assert [f.key for f in found] == [key.replace("/", ".")]
    assert names in found[0].problem + found[0].hint


def test_keys_that_never_did_anything_are_warnings_in_1_3():
    for key in ("sgx/static_address", "sgx/allow_file_creation", "loader/insecure_disable_aslr"):
        assert [f.severity for f in schema_findings(with_value(key, True, OLD), "1.3")] == [
            "warning"
        ]


def test_a_manifest_of_bigdl_does_not_pass_the_schema_of_1_9():
    text = (GOLDEN / "l01-16g-1024-nonpie" / "app.manifest").read_text()
    keys = {f.key for f in errors(schema_findings(tomllib.loads(text), "1.9"))}
    assert keys >= {
        "sgx.thread_num",
        "sgx.nonpie_binary",
        "sgx.static_address",
        "sgx.allow_file_creation",
        "sgx.ra_client_spid",
        "loader.pal_internal_mem_size",
        "loader.entrypoint",
    }


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("sgx/enclav_size", "sgx.enclave_size"),
        ("sgx/log_level", "loader.log_level"),
        ("fs/mountss", "fs.mounts"),
        ("sys/insecure__use_host_env", "loader.insecure__use_host_env"),
    ],
)
def test_an_unknown_key_gets_its_nearest_known_one(key, near):
    found = about(schema_findings(with_value(key, []), "1.9"), key.replace("/", "."))
    assert found.hint == f"did you mean {near}?"


def test_mixed_arrays_break_1_3_only():
    mixed = ["file:/a", {"uri": "file:/b"}]
    found = about(
        signing_findings(with_value("sgx/trusted_files", mixed, OLD), "1.3"), "sgx.trusted_files"
    )
    assert found.stock
    assert not errors(signing_findings(with_value("sgx/trusted_files", mixed), "1.9"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loader/log_level", "all"),
        ("loader/insecure__use_host_env", True),
        ("loader/insecure__use_cmdline_argv", True),
        ("loader/insecure__disable_aslr", True),
        ("sgx/file_check_policy", "allow_all_but_log"),
        ("sgx/allowed_files", ["file:/tmp/"]),
        ("sys/insecure__allow_eventfd", True),
        ("sys/experimental__enable_flock", True),
        ("sgx/max_threads", 2),
        ("sgx/insecure__rpc_thread_num", 2),
    ],
)
def test_insecure_or_unwise_options_are_warnings(key, value):
    found = signing_findings(with_value(key, value), "1.9")
    assert [(f.key, f.severity) for f in found] == [(key.replace("/", "."), "warning")]


def test_a_jvm_manifest_is_told_what_a_jvm_needs():
    manifest = with_value("loader/env", {"SPARK_HOME": "/spark"})
    keys = {f.key for f in signing_findings(manifest, "1.9")}
    assert keys == {
        "sys.enable_sigterm_injection",
        "sys.disallow_subprocesses",
        "sgx.use_exinfo",
        "fs.mounts",
        "loader.env.SPARK_LOCAL_IP",
    }


@pytest.mark.parametrize(
    ("command", "fine"),
    [
        ("export A=b && exec $sgx_command", True),
        ('export A=b; eval "$sgx_command"', False),
        ("a | b", False),
    ],
)
def test_shell_lines_that_fork_where_forks_are_forbidden(command, fine):
    manifest = with_value("loader/argv", ["bash", "-c", command])
    manifest["libos"]["entrypoint"] = "/bin/app/bash"
    manifest["sys"] = {"disallow_subprocesses": True}
    assert (signing_findings(manifest, "1.9") == ()) == fine


def test_secret_keys_in_a_manifest_are_not_shown():
    for key in ("ab" * 16, "not-a-key-but-secret"):
        found = signing_findings(with_value("fs/insecure__keys", {"k": key}), "1.9")
        assert found
        assert key not in repr(found)


def test_values_of_environment_variables_are_not_shown():
    found = signing_findings(with_value("loader/env", {"A": "hidden\0"}), "1.9")
    assert found
    assert "hidden" not in repr(found)


def test_schema_findings_are_part_of_signing_findings():
    manifest = with_value("sgx/nonsense", 1)
    assert set(schema_findings(manifest, "1.9")) <= set(signing_findings(manifest, "1.9"))


SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.datetimes(),
    st.dates(),
    st.times(),
    st.sampled_from(
        [
            "16G",
            "file:/a",
            "file:/a/",
            "dev:/x",
            "file:",
            "encrypted",
            "required",
            "bash",
            "/",
            "..",
            "_",
        ]
    ),
)
NAMES = sorted(
    {part for text in (*legacy_keys("1.3"), *legacy_keys("1.9")) for part in text.split(".")}
    | {"mounts", "root", "type", "uri", "path", "key_name", "insecure__keys", "entrypoint", "argv"}
    | {"sha256", "argv_src_file", "env", "value", "passthrough", "log_level", "enclave_size"}
    | {"max_threads", "thread_num", "debug", "trusted_files", "allowed_files", "cpu_features"}
    | {"avx", "avx512", "profile", "enable", "isvprodid", "remote_attestation", "stack", "size"}
    | {"JAVA_HOME", "SPARK_HOME", "disallow_subprocesses", "seal_key"}
)
KEYS = st.one_of(st.sampled_from(NAMES), st.text(max_size=5))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=25,
)
TOP = st.dictionaries(
    st.sampled_from(["fs", "libos", "loader", "sgx", "sys", "other"]), VALUES, max_size=6
)


@given(manifest=TOP, release=st.sampled_from(["1.3", "1.9"]))
@settings(max_examples=200, deadline=None)
def test_any_toml_gives_findings_of_one_line_each(manifest, release):
    before = repr(manifest)
    found = signing_findings(manifest, release)
    for finding in found:
        lines = finding.key + finding.problem + finding.hint
        assert lines.isprintable() or "\n" not in lines
        assert finding.problem
        assert finding.hint
    assert set(schema_findings(manifest, release)) <= set(found)
    assert repr(manifest) == before


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*path, number))
    yield path


GOLDEN_MANIFEST = tomllib.loads(
    (GOLDEN / "n01-bigdl-16g-1024-all-dcap" / "app.manifest").read_text()
)
PLACES = sorted(leaves(GOLDEN_MANIFEST), key=repr)[1:]


@given(place=st.sampled_from([p for p in PLACES if p]), value=VALUES)
@settings(max_examples=200, deadline=None)
def test_any_value_at_any_place_of_a_real_manifest(place, value):
    manifest = copy.deepcopy(GOLDEN_MANIFEST)
    table = manifest
    for key in place[:-1]:
        table = table[key]
    table[place[-1]] = value
    signing_findings(manifest, "1.9")
    signing_findings(manifest, "1.3")


def test_very_deep_nesting_is_no_crash():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for key in ("sgx/enclave_size", "loader/argv", "sys/ioctl_structs", "other"):
        assert isinstance(signing_findings(with_value(key, deep), "1.9"), tuple)


def test_a_number_too_long_for_python_to_write_is_a_finding():
    manifest = tomllib.loads("sgx.max_threads = 0x" + "f" * 5000)
    assert "a very long number" in about(schema_findings(manifest, "1.9"), "sgx.max_threads").line


@pytest.mark.parametrize("text", ["\x7f", "\x9b", "\u2028", "\u202e", "a\tb"])
def test_what_a_terminal_would_act_on_is_spelt_out(text):
    found = schema_findings(with_value("sgx/max_threads", text) | {text: 1}, "1.9")
    assert all(finding.line.isprintable() for finding in found)
    assert len(found) == 2

"""The shipped manifest templates: they render, parse, and hold what their profile promises."""

import functools
import json
import re
import tomllib
from pathlib import Path

import jinja2
import pytest
import toml
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.enclave.manifest_rules import schema_findings, signing_findings
from imagekit.runtime.paths import FLINK_POD_TEMPLATE

FOLDER = Path(__file__).parent.parent.parent / "gramine"
STRICT, COMPAT, OLD = (
    "strict.manifest.template",
    "bash.manifest.template",
    "1.3/bash.manifest.template",
)


class Gramine:
    def __init__(self, pkglibdir="/usr/lib/x86_64-linux-gnu/gramine"):
        self.pkglibdir = pkglibdir
        self.libos = f"{pkglibdir}/libsysdb.so"

    def runtimedir(self, libc="glibc"):
        return f"{self.pkglibdir}/runtime/{libc}"


def variables(**changed):
    return {
        "gramine": Gramine(),
        "log_level": "error",
        "enclave_size": "16G",
        "max_threads": 1024,
        "edmm": False,
        "debug": False,
        "attestation": "dcap",
        "isv_prod_id": 1,
        "isv_svn": 3,
        "arch_libdir": "/usr/lib/x86_64-linux-gnu",
        "python": "/usr/bin/python3.11",
        "python_lib": "/usr/lib/python3.11",
        "java_home": "/usr/lib/jvm/java-17-openjdk-amd64",
        "java_etc": ["/etc/java-17-openjdk"],
        "spark_home": "/opt/spark",
        "flink_home": "",
        "launcher": "/opt/imagekit/launcher.pyz",
        "app": "/opt/imagekit",
        "argv": ["/usr/bin/true"],
        "env": {},
        "passthrough": [],
        "trusted": [],
        "encrypted": [],
        "execdir": "/usr/bin",
        "jdk_home": "/opt/jdk8",
        **changed,
    }


def literal(value):
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises what StrictUndefined raises
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@functools.cache
def template(name):
    env = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    env.filters["toml"] = literal
    return env.from_string((FOLDER / name).read_text())


def text_of(name, **changed):
    return template(name).render(**variables(**changed))


def manifest_of(name, **changed):
    text = text_of(name, **changed)
    return toml.loads(text) if name == OLD else tomllib.loads(text)


def release_of(name):
    return "1.3" if name == OLD else "1.9"


SHAPES = {
    "spark": {},
    "flink": {"spark_home": "", "flink_home": "/opt/flink"},
    "java alone": {"spark_home": ""},
    "no java": {"spark_home": "", "java_home": "", "java_etc": []},
    "jlink": {"java_home": "/jdk", "java_etc": []},
    "gramine elsewhere": {"gramine": Gramine("/usr/local/lib/gramine")},
    "spark below the app": {"spark_home": "/opt/imagekit/spark"},
    "everything": {
        "env": {"A": 'q " b \\ é', "SPARK_LOCAL_IP": "10.0.0.1"},
        "passthrough": ["TZ", "HOME"],
        "trusted": ["file:/opt/jobs/", "file:/opt/spark/jars/x.jar"],
        "encrypted": [{"path": "/data", "uri": "file:/data", "key_name": "warehouse"}],
    },
    "small, no attestation": {"enclave_size": "4G", "max_threads": 64, "attestation": "none"},
    "edmm, debug": {"edmm": True, "debug": True, "log_level": "all"},
}


@pytest.mark.parametrize("name", [STRICT, COMPAT, OLD])
@pytest.mark.parametrize("shape", SHAPES)
def test_templates_follow_the_manifest_syntax_of_their_release(name, shape):
    manifest = manifest_of(name, **SHAPES[shape])
    found = schema_findings(manifest, release_of(name))
    if name == OLD:
        # Three keys that BigDL has and no Gramine reads.
        assert {f.key for f in found} == {
            "loader.insecure_disable_aslr",
            "sgx.allow_file_creation",
            "sgx.static_address",
        }
        assert {f.severity for f in found} == {"warning"}
    else:
        assert found == ()
    assert [f for f in signing_findings(manifest, release_of(name)) if f.severity == "error"] == []


@pytest.mark.parametrize("name", [STRICT, COMPAT, OLD])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_double_slash_and_no_file_listed_twice(name, shape):
    text = text_of(name, **SHAPES[shape])
    assert not re.search(r"(file:|\w)//", text)
    trusted = manifest_of(name, **SHAPES[shape])["sgx"]["trusted_files"]
    assert len(trusted) == len(set(trusted))
    if name == OLD:
        return
    for uri in trusted:
        assert not any(
            uri != other and other.endswith("/") and uri.startswith(other) for other in trusted
        )


def test_a_strict_manifest_has_memory_of_its_own_where_flink_looks_for_a_pod_template():
    memory = {"type": "tmpfs", "path": str(Path(FLINK_POD_TEMPLATE).parent)}
    for name, expected in ((STRICT, True), (COMPAT, False)):
        assert (memory in manifest_of(name, **SHAPES["flink"])["fs"]["mounts"]) == expected
    mounts = manifest_of(STRICT, flink_home="/opt/other")["fs"]["mounts"]
    assert mounts.index(memory) > mounts.index({"path": "/opt/other", "uri": "file:/opt/other"})
    assert memory not in manifest_of(STRICT)["fs"]["mounts"]


@pytest.mark.parametrize("name", [STRICT, COMPAT, OLD])
def test_an_undefined_variable_is_an_error(name):
    given_values = variables()
    del given_values["enclave_size"]
    with pytest.raises(jinja2.UndefinedError):
        template(name).render(**given_values)


@pytest.mark.parametrize("name", [STRICT, COMPAT])
def test_every_template_variable_reaches_the_manifest(name):
    manifest = manifest_of(name, edmm=True, debug=True, attestation="none", log_level="all")
    assert (
        manifest["sgx"]
        | {
            "enclave_size": "16G",
            "max_threads": 1024,
            "edmm_enable": True,
            "debug": True,
            "isvprodid": 1,
            "isvsvn": 3,
            "remote_attestation": "none",
        }
        == manifest["sgx"]
    )
    assert manifest["loader"]["log_level"] == "all"


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"edmm, debug"}))
def test_strict_gives_nothing_to_warn_of(shape):
    assert signing_findings(manifest_of(STRICT, **SHAPES[shape]), "1.9") == ()


def test_strict_seals_command_files_and_environment():
    manifest = manifest_of(STRICT, passthrough=["TZ"])
    loader = manifest["loader"]
    assert loader["argv"] == ["/usr/bin/python3.11", "-I", "-S", "/opt/imagekit/launcher.pyz"]
    assert manifest["libos"]["entrypoint"] == "/usr/bin/python3.11"
    assert not [key for key in loader if key.startswith("insecure")]
    assert manifest["sgx"]["file_check_policy"] == "strict"
    assert "allowed_files" not in manifest["sgx"]
    assert manifest["sys"]["disallow_subprocesses"]
    assert manifest["sys"]["enable_sigterm_injection"]
    assert manifest["sys"]["enable_extra_runtime_domain_names_conf"]
    assert [n for n, v in loader["env"].items() if not isinstance(v, str)] == ["TZ"]


def test_everything_mounted_by_strict_is_trusted_encrypted_or_in_memory():
    for shape in SHAPES.values():
        manifest = manifest_of(STRICT, **shape)
        trusted = manifest["sgx"]["trusted_files"]
        for mount in manifest["fs"]["mounts"]:
            if mount.get("type") in ("tmpfs", "encrypted"):
                continue
            uri = mount["uri"]
            assert any(
                uri == known or (known.endswith("/") and f"{uri}/".startswith(known))
                for known in trusted
            ), uri


def test_strict_brings_its_own_system_files():
    mounts = {m["path"]: m.get("uri") for m in manifest_of(STRICT)["fs"]["mounts"]}
    for name in ("passwd", "hosts", "nsswitch.conf"):
        assert mounts[f"/etc/{name}"] == f"file:/opt/imagekit/etc/{name}"
    assert mounts["/lib"].endswith("/gramine/runtime/glibc")
    # One folder under two paths, but one URI: that is what is looked up in the trusted files.
    assert mounts["/lib/x86_64-linux-gnu"] == mounts["/usr/lib/x86_64-linux-gnu"]
    assert "/tmp" in mounts


def test_gramine_outside_the_library_folder_is_listed_by_itself():
    trusted = manifest_of(STRICT, gramine=Gramine("/opt/gramine"))["sgx"]["trusted_files"]
    assert "file:/opt/gramine/libsysdb.so" in trusted
    assert "file:/opt/gramine/runtime/glibc/" in trusted


def test_a_fixed_value_wins_over_a_default_and_a_passthrough_replaces_a_default():
    env = manifest_of(STRICT, env={"HOME": "/x"}, passthrough=["SPARK_LOCAL_IP"])["loader"]["env"]
    assert env["HOME"] == "/x"
    assert env["SPARK_LOCAL_IP"] == {"passthrough": True}


@given(value=st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None, max_examples=50)
def test_no_value_can_break_out_of_its_place(value):
    for name in (STRICT, COMPAT):
        plain = manifest_of(name, env={"X": "y"})
        odd = manifest_of(name, env={"X": value})
        assert odd["loader"]["env"].pop("X") == value
        plain["loader"]["env"].pop("X")
        assert odd == plain


def test_compat_says_what_a_host_can_do():
    for name in (COMPAT, OLD):
        header = (FOLDER / name).read_text().partition("-#}")[0]
        assert "What a host can do" in header
        assert "$sgx_command" in header


def test_compat_runs_the_hosts_command_with_exec():
    argv = manifest_of(COMPAT)["loader"]["argv"]
    assert argv[:2] == ["bash", "-c"]
    assert argv[2].endswith("&& exec $sgx_command")


BIGDL_KEYS = {
    "libos.entrypoint": "/usr/bin/bash",
    "loader.entrypoint": "file:/usr/lib/x86_64-linux-gnu/gramine/libsysdb.so",
    "loader.pal_internal_mem_size": "512M",
    "loader.log_level": "error",
    "loader.insecure__use_host_env": True,
    "loader.env.LD_PRELOAD": "",
    "sys.enable_extra_runtime_domain_names_conf": True,
    "sys.insecure__allow_eventfd": True,
    "loader.insecure_disable_aslr": True,
    "loader.argv_src_file": "file:/ppml/secured_argvs",
    "sgx.remote_attestation": "dcap",
    "sgx.ra_client_spid": "",
    "sgx.allow_file_creation": True,
    "sgx.debug": False,
    "sgx.nonpie_binary": True,
    "sgx.enclave_size": "16G",
    "sgx.thread_num": 1024,
    "sgx.file_check_policy": "allow_all_but_log",
    "sgx.static_address": 1,
    "sgx.isvprodid": 1,
    "sgx.isvsvn": 3,
    "loader.env.LD_LIBRARY_PATH": (
        "/lib:/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu:/usr/lib/python3.9/lib:/usr/lib:"
        "/opt/jdk8:/opt/jdk8/lib/amd64/jli:/ppml/lib"
    ),
    "loader.env.PATH": (
        "/usr/bin:/usr/lib/python3.9/bin:/:/usr/sbin:/usr/bin:/sbin:/bin:/opt/jdk8/bin"
    ),
    "loader.env.PYTHONHOME": "/usr/lib/python3.9",
    "loader.env.PYTHONPATH": (
        "/usr/lib/python3.9:/usr/lib/python3.9/lib-dynload:"
        "/usr/local/lib/python3.9/dist-packages:/usr/lib/python3/dist-packages:"
        "/ppml/bigdl-ppml/src"
    ),
    "loader.env.JAVA_HOME": "/opt/jdk8",
    "loader.env.JAVA_OPTS": (
        "'-Djava.library.path=/opt/jdk8/lib -Dsun.boot.library.path=/opt/jdk8/lib'"
    ),
    "loader.env.SPARK_LOCAL_IP": "127.0.0.1",
    "loader.env.SPARK_USER": "root",
    "loader.env.SPARK_HOME": "/ppml/spark-3.1.3",
    "loader.env.SPARK_SCALA_VERSION": "2.12",
    "loader.env.SPARK_MASTER_OPTS": "'-Dspark.worker.timeout=60'",
}


def flat(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_compat_1_3_is_bigdls_manifest_key_for_key():
    manifest = manifest_of(OLD, python_lib="/usr/lib/python3.9", spark_home="/ppml/spark-3.1.3")
    lists = {"fs.mounts", "sgx.trusted_files", "sgx.allowed_files"}
    assert {k: v for k, v in flat(manifest) if k not in lists} == BIGDL_KEYS
    mounts = {m["path"]: (m.get("type"), m["uri"]) for m in manifest["fs"]["mounts"]}
    plain = "/usr/bin /usr/lib /usr/local /etc /opt /bin /tmp /root/.kube /root/.keras /root/.m2"
    plain += " /root/.zinc /root/.cache /root/.jupyter /usr/lib/gcc /ppml /usr/lib/python3.9"
    for path in plain.split():
        assert mounts[path] == (None, f"file:{path}")
    assert mounts["/usr/local/etc"] == (None, "file:/etc")
    assert mounts["/lib"][1].endswith("/runtime/glibc")
    keys = {m["path"]: m["key_name"] for m in manifest["fs"]["mounts"] if "key_name" in m}
    assert keys == {"/ppml/encrypted-fs": "_sgx_mrsigner", "/ppml/encrypted-fsd": "sgx_data_key"}
    assert "file:/ppml/secured_argvs" in manifest["sgx"]["trusted_files"]
    assert len(manifest["sgx"]["allowed_files"]) == 14


def test_compat_1_3_is_read_the_same_by_both_toml_parsers():
    for shape in SHAPES.values():
        text = text_of(OLD, **shape)
        assert json.dumps(toml.loads(text)) == json.dumps(tomllib.loads(text))


def test_every_variable_of_the_templates_is_documented():
    documented = (FOLDER.parent / "docs" / "manifest-templates.md").read_text()
    for name in variables():
        assert f"`{name}" in documented, name

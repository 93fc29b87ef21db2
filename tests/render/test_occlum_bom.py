"""What ``copy_bom`` gets to copy, by what a base has; and what an enclave's tree is then.

A few lines here do what ``copy_bom`` does with such a list (copy folders with their links, files
with links followed), so that the tree is looked at rather than the list alone.
"""

import posixpath
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import JAVA, base_files, write_base
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagekit.errors import InputError
from imagekit.images.layers import LayerFile
from imagekit.images.layout import OciLayout
from imagekit.images.rootfs import Rootfs
from imagekit.render.bom import BomInputs, bom_document, bom_yaml
from imagekit.render.pod_paths import FROM_ENGINE, REFUSED_PATHS
from imagekit.runtime.files import runtime_files

INPUTS = BomInputs(
    where="imagekit.yaml",
    python="/usr/bin/python3.11",
    python_lib="/usr/lib/python3.11",
    java_home=JAVA,
    java_etc=("/etc/java-17",),
    spark_home="/opt/spark",
)


def rootfs_of(folder: Path, files: Iterable[LayerFile]) -> Rootfs:
    image = OciLayout.open(write_base(folder, list(files))).image("base")
    launcher = runtime_files("/usr/bin/python3.11", "occlum").items()
    return Rootfs.from_image(image, None).with_files(
        [LayerFile(path, data, mode) for path, (data, mode) in launcher]
    )


@pytest.fixture
def base(tmp_path):
    """Makes the base with further files."""
    return lambda *more: rootfs_of(tmp_path / "base", [*base_files(), *more])


def put(path: str, text: str = "x", mode: int = 0o644) -> LayerFile:
    return LayerFile(path, text.encode(), mode)


def link(path: str, target: str) -> LayerFile:
    return LayerFile(path, link=target)


# -- what copy_bom makes of a list


class Enclave:
    """The tree: path → content of a file, or target of a link."""

    def __init__(self, rootfs: Rootfs, document: dict[str, Any]) -> None:
        self.rootfs = rootfs
        self.files: dict[str, str] = {}
        self.links: dict[str, str] = {}
        self.folders: set[str] = {"/"}
        self.excluded = document["excludes"]
        assert set(document) == {"excludes", "targets"}
        for target in document["targets"]:
            assert set(target) <= {"target", "createlinks", "copy"}
            self.mkdir(target["target"])
            for item in target.get("createlinks", []):
                self.links[posixpath.join(target["target"], item["linkname"])] = item["src"]
            for copy in target.get("copy", []):
                assert copy and set(copy) <= {"dirs", "files"}
                for name in copy.get("dirs", []):
                    assert name.endswith("/") and name.startswith("/")
                    self.copy_folder(name.rstrip("/"), target["target"])
                for item in copy.get("files", []):
                    named = {"name": item} if isinstance(item, str) else item
                    name = named.get("rename", posixpath.basename(named["name"]))
                    self.write(posixpath.join(target["target"], name), named["name"])

    def mkdir(self, path: str) -> None:
        while path not in self.folders:
            self.folders.add(path)
            path = posixpath.dirname(path)

    def write(self, inside: str, path: str) -> None:
        self.mkdir(posixpath.dirname(inside))
        self.files[inside] = self.rootfs.sha256(path)

    def copy_folder(self, path: str, inside: str) -> None:
        self.mkdir(inside)
        for name in self.rootfs.children(path):
            if name in self.excluded:
                continue
            entry = self.rootfs.entry(f"{path}/{name}", follow=False)
            assert entry is not None
            if entry.kind == "dir":
                self.copy_folder(f"{path}/{name}", f"{inside}/{name}")
            elif entry.kind == "symlink":
                self.links[f"{inside}/{name}"] = entry.target
            else:
                self.write(f"{inside}/{name}", f"{path}/{name}")

    def find(self, path: str) -> str | None:
        """Content's hash of a file, "dir", or None; links followed."""
        done: list[str] = []
        parts, hops = path.split("/")[::-1], 0
        while parts:
            part = parts.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del done[-1:]
                continue
            here = "/" + "/".join([*done, part])
            if here in self.links:
                hops += 1
                if hops > 40:
                    return None
                if self.links[here].startswith("/"):
                    done = []
                parts += self.links[here].split("/")[::-1]
                continue
            if here in self.files:
                return self.files[here] if not any(p for p in parts) else None
            if here not in self.folders:
                return None
            done.append(part)
        return "dir"


def enclave(rootfs: Rootfs, inputs: BomInputs = INPUTS) -> Enclave:
    return Enclave(rootfs, bom_document(rootfs, inputs))


def same(tree: Enclave, rootfs: Rootfs, *paths: str) -> bool:
    return all(tree.find(path) == rootfs.sha256(path) for path in paths)


# -- what is in it


def test_the_whole_list_of_a_small_base(base):
    rootfs = base(put(f"{JAVA}/lib/server/libjvm.so"), put("/opt/spark/RELEASE"))
    assert yaml.safe_load(bom_yaml(rootfs, INPUTS)) == {
        "excludes": ["__pycache__"],
        "targets": [
            {
                "target": "/etc",
                "copy": [
                    {
                        "files": [
                            "/opt/imagekit/etc/hosts",
                            "/opt/imagekit/etc/nsswitch.conf",
                            "/opt/imagekit/etc/passwd",
                        ]
                    }
                ],
            },
            {"target": "/etc/java-17", "copy": [{"dirs": ["/etc/java-17/"]}]},
            {"target": "/opt/imagekit", "copy": [{"dirs": ["/opt/imagekit/"]}]},
            {"target": "/opt/spark", "copy": [{"files": ["/opt/spark/RELEASE"]}]},
            {"target": "/opt/spark/jars", "copy": [{"dirs": ["/opt/spark/jars/"]}]},
            {"target": "/usr/bin", "copy": [{"files": ["/usr/bin/python3.11"]}]},
            {"target": f"{JAVA}/bin", "copy": [{"dirs": [f"{JAVA}/bin/"]}]},
            {"target": f"{JAVA}/conf", "copy": [{"dirs": [f"{JAVA}/conf/"]}]},
            {"target": f"{JAVA}/lib", "copy": [{"dirs": [f"{JAVA}/lib/"]}]},
            {"target": "/usr/lib/python3.11", "copy": [{"dirs": ["/usr/lib/python3.11/"]}]},
        ],
    }


def test_the_tree_has_what_jobs_need_and_nothing_of_the_toolchain(base):
    rootfs = base(
        put(f"{JAVA}/lib/server/libjvm.so"),
        put("/usr/lib/python3.11/lib-dynload/_ssl.so"),
        put("/etc/ssl/certs/ca-certificates.crt"),
        put("/usr/share/zoneinfo/UTC"),
        put("/usr/lib/locale/C.UTF-8/LC_CTYPE"),
        put("/opt/occlum/build/bin/occlum"),
    )
    tree = enclave(rootfs)
    assert same(
        tree,
        rootfs,
        *("/usr/bin/python3.11", "/usr/lib/python3.11/os.py", f"{JAVA}/bin/java"),
        *("/usr/lib/python3.11/lib-dynload/_ssl.so", f"{JAVA}/lib/server/libjvm.so"),
        *("/etc/ssl/certs/ca-certificates.crt", "/usr/share/zoneinfo/UTC"),
        *("/usr/lib/locale/C.UTF-8/LC_CTYPE", "/opt/imagekit/launcher.pyz"),
        *("/opt/imagekit/enclave/start", "/opt/spark/jars/spark-core.jar"),
    )
    for name in ("passwd", "hosts", "nsswitch.conf"):
        assert tree.find(f"/etc/{name}") == rootfs.sha256(f"/opt/imagekit/etc/{name}")
    assert tree.find(f"{JAVA}/conf/net.properties") == rootfs.sha256("/etc/java-17/net.properties")
    for path in ("/opt/occlum", "/usr/bin/bash", "/var", "/usr/lib/x86_64-linux-gnu/gramine"):
        assert tree.find(path) is None


def test_a_base_without_java_and_spark_is_fine(base):
    tree = enclave(base(), BomInputs("imagekit.yaml", "/usr/bin/python3.11", "/usr/lib/python3.11"))
    assert tree.find("/opt/spark") is None and tree.find(JAVA) is None
    assert tree.find("/opt/imagekit/launcher.pyz")


def test_what_enclaves_never_need_is_left_out(base):
    rootfs = base(
        *(put(f"{JAVA}/{name}/x") for name in ("man", "demo", "include", "legal", "jmods")),
        link(f"{JAVA}/src.zip", "../openjdk/src.zip"),
        *(put(f"/opt/spark/{name}/x") for name in ("R", "data", "examples/jars", "kubernetes")),
        *(put(f"/opt/spark/{name}/x") for name in ("yarn", "sbin", "python", "conf", "bin")),
        *(put(f"/opt/flink/{name}/x") for name in ("examples", "log", "lib", "opt", "plugins")),
        put("/usr/lib/python3.11/__pycache__/os.cpython-311.pyc"),
        put("/opt/spark/python/__pycache__/y.pyc"),
    )
    tree = enclave(rootfs, replace(INPUTS, flink_home="/opt/flink"))
    kept = {posixpath.dirname(path) for path in tree.files if path.endswith("/x")}
    assert kept == {
        *("/opt/spark/python", "/opt/spark/conf", "/opt/spark/bin"),
        *("/opt/flink/lib", "/opt/flink/opt", "/opt/flink/plugins"),
    }
    assert not any("__pycache__" in path for path in (*tree.files, *tree.folders))


def test_what_a_project_names_comes_from_left_out_folders_too(base):
    rootfs = base(
        *(put(f"/opt/spark/examples/jars/{name}.jar", name) for name in ("spark-examples", "y")),
        put("/opt/spark/data/mllib/points.txt"),
        put("/opt/spark/python/__pycache__/own.pyc"),
    )
    tree = enclave(
        rootfs,
        replace(
            INPUTS,
            jars=("/opt/spark/examples/jars/spark-examples.jar",),
            trusted=("file:/opt/spark/data/mllib/", "file:/opt/spark/python/__pycache__/own.pyc"),
        ),
    )
    assert same(tree, rootfs, "/opt/spark/examples/jars/spark-examples.jar")
    assert same(tree, rootfs, "/opt/spark/data/mllib/points.txt")
    assert same(tree, rootfs, "/opt/spark/python/__pycache__/own.pyc")
    assert tree.find("/opt/spark/examples/jars/y.jar") is None


def test_name_services_come_from_the_c_library_that_is_used(base):
    occlum, own = "/opt/occlum/glibc/lib", "/usr/lib/x86_64-linux-gnu"
    ours = [put(f"{own}/{name}") for name in ("libc.so.6", "libnss_dns.so.2", "libnss_files.so.2")]
    theirs = [put(f"{occlum}/{name}") for name in ("libc.so.6", "libnss_files.so.2")]
    theirs += [
        put(f"{occlum}/libresolv-2.31.so"),
        link(f"{occlum}/libresolv.so.2", "libresolv-2.31.so"),
    ]
    tree = enclave(base(*ours, *theirs))
    assert tree.find(f"{occlum}/libnss_files.so.2") and tree.find(f"{occlum}/libresolv.so.2")
    assert not any(path.startswith(own) for path in tree.files)


def test_without_occlums_c_library_the_distributions_is_used(base):
    own = "/usr/lib/x86_64-linux-gnu"
    tree = enclave(base(put(f"{own}/libc.so.6"), put(f"{own}/libnss_dns.so.2")))
    assert [path for path in tree.files if path.startswith(own)] == [f"{own}/libnss_dns.so.2"]


def test_mount_points_are_there(base):
    tree = enclave(base(), replace(INPUTS, mount_points=("/data/in", "/opt/spark")))
    assert tree.find("/data/in") == "dir"


# -- programs, scripts, links


def test_a_program_that_is_a_link_starts_where_its_parts_are(base):
    rootfs = base(link("/usr/bin/java", "/etc/alternatives/java"),
                  link("/etc/alternatives/java", f"{JAVA}/bin/java"))  # fmt: skip
    tree = enclave(rootfs, replace(INPUTS, command=("/usr/bin/java", "-version")))
    assert tree.links["/usr/bin/java"] == "../lib/jvm/java-17/bin/java"
    assert same(tree, rootfs, "/usr/bin/java")


def test_a_script_brings_its_interpreter(base):
    rootfs = base(put("/opt/job.sh", "#!/usr/bin/bash\nexit\n", 0o755))
    tree = enclave(rootfs, replace(INPUTS, command=("/opt/job.sh",)))
    assert same(tree, rootfs, "/opt/job.sh", "/usr/bin/bash")


@pytest.mark.parametrize(
    "first", ["#!/usr/bin/python3.11 -I", "#!python3", "#!", "#!/no/such", "#!\xff\0", "#!/opt"]
)
def test_a_script_that_occlum_cannot_start_is_refused(base, first):
    rootfs = base(LayerFile("/opt/job", first.encode("latin-1") + b"\nx", 0o755))
    with pytest.raises(InputError, match=r"launch\.command: /opt/job is a script") as caught:
        bom_document(rootfs, replace(INPUTS, command=("/opt/job",)))
    assert caught.value.problem.isprintable()


def test_links_find_their_targets_in_the_tree(base):
    rootfs = base(
        put("/srv/data/a.txt", "a"),
        put("/srv/models/m/1.bin", "m"),
        link("/opt/app/data.txt", "/srv/data/a.txt"),
        link("/opt/app/deep/models", "../../../srv/models"),
        link("/opt/app/chain", "data.txt"),
        link("/srv/models/again", "/srv/other/z"),
        put("/srv/other/z", "z"),
        link("/opt/app/dangling", "/nowhere"),
        link("/opt/app/round", "round"),
        link("/opt/app/self", "."),
        link("/opt/app/top", "/"),
        link("/opt/app/usr", "/usr"),
    )
    tree = enclave(rootfs, replace(INPUTS, trusted=("file:/opt/app/",)))
    assert same(tree, rootfs, "/opt/app/data.txt", "/opt/app/chain")
    assert same(tree, rootfs, "/opt/app/deep/models/m/1.bin", "/opt/app/deep/models/again")
    # nothing but what was put there anyway
    assert tree.find("/opt/app/usr/bin/python3.11") and tree.find("/opt/app/usr/bin/bash") is None
    assert tree.find("/opt/app/dangling") is None


def test_a_folder_reached_by_a_link_keeps_the_name_by_which_it_is_trusted(base):
    rootfs = base(put("/usr/lib/own/x", "x"), link("/usr/lib/own/up", "../own/x"))
    tree = enclave(rootfs, replace(INPUTS, trusted=("file:/lib/own/",)))
    assert same(tree, rootfs, "/lib/own/x", "/lib/own/up")


NAMES = ("a", "b", "c")
PATHS = ["/opt/app/" + "/".join(parts) for parts in [("a",), ("b",), ("c", "a"), ("c", "b", "a")]]
PATHS += ["/srv/a", "/srv/b/a", "/srv/b/c", "/mnt/a/b", "/mnt/c"]
TARGETS = st.one_of(
    st.sampled_from([*PATHS, "/srv", "/srv/b", "/opt/app/c", "/mnt", "/gone"]),
    st.sampled_from(["a", "../a", "../b/a", "../../srv/a", ".", "..", "../../../mnt/c", "./b"]),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(PATHS), st.one_of(st.none(), TARGETS), min_size=1))
def test_whatever_a_trusted_folder_links_to_is_there(tmp_path_factory, entries):
    files = [put(path, path) if to is None else link(path, to) for path, to in entries.items()]
    files.append(put("/opt/app/always"))
    rootfs = rootfs_of(tmp_path_factory.mktemp("base") / "base", [*base_files(), *files])
    inputs = replace(INPUTS, trusted=("file:/opt/app/",))
    document = bom_document(rootfs, inputs)
    assert document == bom_document(rootfs, inputs)
    tree = Enclave(rootfs, document)
    for path in entries:
        if path.startswith("/opt/app/") and rootfs.kind(path) == "file":
            assert tree.find(path) == rootfs.sha256(path), document
        elif path.startswith("/opt/app/") and rootfs.kind(path) == "dir":
            assert tree.find(path) == "dir", document
    targets = [target["target"] for target in document["targets"]]
    assert targets == sorted(set(targets))


# -- order and form


def test_the_list_does_not_depend_on_the_order_of_what_is_named(base):
    rootfs = base(put("/srv/a/x"), put("/srv/b/y"), put("/opt/j1.jar"), put("/opt/j2.jar"))
    one = replace(
        INPUTS, trusted=("file:/srv/a/", "file:/srv/b/y"), jars=("/opt/j1.jar", "/opt/j2.jar")
    )
    other = replace(one, trusted=one.trusted[::-1], jars=one.jars[::-1])
    text = bom_yaml(rootfs, one)
    assert text == bom_yaml(rootfs, other) and text.isascii()
    assert yaml.safe_load(text) == bom_document(rootfs, one)


def test_nothing_is_copied_twice(base):
    rootfs = base(put("/opt/app/in/x"))
    document = bom_document(
        rootfs,
        replace(
            INPUTS,
            trusted=(
                *("file:/opt/app/in/x", "file:/opt/app/in/", "file:/opt/app/"),
                f"file:{JAVA}/bin/java",
            ),
            jars=("/opt/spark/jars/spark-core.jar", "/opt/app/in/x"),
        ),
    )  # fmt: skip
    text = yaml.safe_dump(document)
    assert "/opt/app/in" not in text and text.count("/opt/app/") == 1
    assert f"{JAVA}/bin/java" not in text and "spark-core.jar" not in text


def test_odd_names_are_kept_as_they_are(base):
    name = "a b'\"#: {é}.txt"
    rootfs = base(put(f"/srv/{name}"))
    document = bom_document(rootfs, replace(INPUTS, trusted=(f"file:/srv/{name}",)))
    assert (
        yaml.safe_load(bom_yaml(rootfs, replace(INPUTS, trusted=(f"file:/srv/{name}",))))
        == document
    )
    assert Enclave(rootfs, document).find(f"/srv/{name}")


# -- refusals


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"trusted": ("file:/no/such",)}, "trusted: /no/such is not in the base"),
        ({"trusted": ("file:/no/such/",)}, "trusted: /no/such is not in the base"),
        ({"trusted": ("file:/opt/spark",)}, "trusted: /opt/spark is a folder"),
        ({"trusted": ("file:/usr/bin/bash/",)}, "trusted: /usr/bin/bash is a file"),
        ({"trusted": ("file:/opt/dangling",)}, "trusted: /opt/dangling is not in the base"),
        ({"trusted": ("file:/opt/$HOME/x",)}, "trusted: '/opt/$HOME/x' is no path"),
        ({"trusted": ("file:/opt/a\nb",)}, r"trusted: '/opt/a\nb' is no path"),
        ({"trusted": ("file:opt/x",)}, "trusted: 'opt/x' is no path"),
        ({"trusted": ("file:/opt/../etc/x",)}, "is no path"),
        ({"jars": ("/no.jar",)}, "launch.jars: /no.jar is not in the base"),
        ({"jars": ("/opt/spark/jars",)}, "launch.jars: /opt/spark/jars is a folder"),
        ({"command": ("/no",)}, "launch.command: /no is not in the base"),
        ({"python": "/no"}, "paths.python: /no is not in the base"),
        ({"python_lib": "/no"}, "paths.python: /no is not in the base"),
        ({"java_home": "/no"}, "paths.java_home: /no is not in the base"),
        ({"spark_home": "/usr/bin/bash"}, "paths.spark_home: /usr/bin/bash is a file"),
        ({"java_etc": ("/no",)}, "paths.java_home: /no is not in the base"),
    ],
)
def test_what_the_base_does_not_have_is_refused(base, changed, words):
    rootfs = base(link("/opt/dangling", "/nowhere"), put("/opt/$HOME/x"), put("/opt/a\tb"))
    with pytest.raises(InputError) as caught:
        bom_document(rootfs, replace(INPUTS, **changed))
    assert caught.value.problem.startswith("imagekit.yaml: ")
    assert words in caught.value.problem and caught.value.hint


POD_FILES = [
    "/var/run/secrets/kubernetes.io/serviceaccount/token",
    "/run/secrets/x",
    "/root/.kube/config",
    "/opt/k8s/x",
    "/etc/resolv.conf",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/machine-id",
]  # fmt: skip


@pytest.mark.parametrize("path", POD_FILES)
def test_a_file_of_a_pod_is_refused_however_it_is_named(base, path):
    rootfs = base(put(path), link("/srv/direct", path), put("/srv/app/x"))
    folder = posixpath.dirname(path)
    names = [f"file:{path}", "file:/srv/direct", f"file:{folder}/", "file:/"]
    names += [f"file:{posixpath.dirname(folder).rstrip('/')}/"]
    for name in names:
        with pytest.raises(InputError, match=r"trusted: .*belongs to one pod or machine") as caught:
            bom_document(rootfs, replace(INPUTS, trusted=(name,)))
        assert "measurement of its own" in caught.value.hint
    for changed in ({"jars": (path,)}, {"command": (path,)}, {"python": path}):
        with pytest.raises(InputError, match="belongs to one pod or machine"):
            bom_document(rootfs, replace(INPUTS, **changed))


@pytest.mark.parametrize("path", POD_FILES)
def test_a_file_of_a_pod_is_refused_behind_a_link_in_a_folder(base, path):
    folder = posixpath.dirname(path)
    rootfs = base(put(path), link("/srv/app/in/l", folder), link("/opt/one/l", path))
    with pytest.raises(InputError, match=r"the link .*one pod or machine"):
        bom_document(rootfs, replace(INPUTS, trusted=("file:/opt/one/",)))
    inputs = replace(INPUTS, trusted=("file:/srv/app/",))
    if folder != "/etc":
        with pytest.raises(InputError, match=r"the link .*one pod or machine"):
            bom_document(rootfs, inputs)
    else:  # the tree has an /etc, with the launcher's files alone
        assert enclave(rootfs, inputs).find(path) in (
            None,
            rootfs.sha256("/opt/imagekit/etc/hosts"),
        )


def test_a_folder_of_a_pod_is_seen_through_a_linked_folder(base):
    rootfs = base(link("/var/run", "../run"), put("/run/secrets/x"), put("/run/y"))
    for name in ("file:/var/run/secrets/", "file:/var/run/secrets/x", "file:/var/run/"):
        with pytest.raises(InputError, match="one pod or machine"):
            bom_document(rootfs, replace(INPUTS, trusted=(name,)))


def test_what_every_container_has_is_refused_whether_or_not_the_base_has_it(base):
    for folder in ("/etc/", "/run/", "/"):
        with pytest.raises(InputError, match="one pod or machine"):
            bom_document(base(put("/run/x")), replace(INPUTS, trusted=(f"file:{folder}",)))


def test_a_folder_whose_pod_files_are_not_there_is_fine(base):
    rootfs = base(put("/root/.bashrc"))
    assert same(enclave(rootfs, replace(INPUTS, trusted=("file:/root/",))), rootfs, "/root/.bashrc")


def test_the_lists_of_refused_paths_hold_what_pods_have():
    assert {
        *("/var/run/secrets", "/run/secrets", "/root/.kube", "/opt/k8s"),
        *("/etc/resolv.conf", "/etc/hostname"),
    } <= REFUSED_PATHS
    assert "/etc/hosts" in FROM_ENGINE and "/etc/hosts" not in REFUSED_PATHS

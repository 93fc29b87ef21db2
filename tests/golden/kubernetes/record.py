#!/usr/bin/env python3
"""Record what stock Spark and Flink give their containers on Kubernetes.

usage: .venv/bin/python tests/golden/kubernetes/record.py [--check] [VERSION...]

Real Spark and Flink (``tests/runtime_parts.py``) start their jobs against a recording API server
(``tests/kubernetes_api.py``): a client submits, then the driver or JobManager that it asked for is
started natively, by the stock scripts and with exactly what its pod would have, until it has asked
for executors or TaskManagers. All of it happens in network, mount and host name spaces of its own,
so root is needed. With ``--check`` nothing is written, and what differs is named.

The files are ``<product>-<version>[-<case>]-<role>.json``:

| key | is |
|---|---|
| ``container`` | its name in the pod |
| ``command``, ``args`` | of the container; null where the pod leaves it to the image |
| ``env`` | name → value, or ``{"secretKeyRef": {…}}``, ``{"fieldRef": {…}}`` as in the pod |
| ``mounts`` | folder in the container → kind of the volume |
| ``properties_file`` | where the job's properties stand in the container, null if it has none |
| ``properties`` | their text |

``<product>-<version>[-<case>]-requests.json`` has what was asked of the API server, by the client
that submits, and by the driver or JobManager until it has its first executors or TaskManager. What
comes before that depends on the machine's speed, so that ``--check`` leaves these files out.

Cases (``cases.py``): none is a plain job; ``secure`` has an enclave's variables, pod templates in
the manner of BigDL's, and the confs for authentication and encryption, with throw-away passwords;
``python`` is a PySpark job, ``session`` a Flink session cluster. Clients are Spark 3.1.3 on Java
11, Spark 3.5.9 and 4.3.0 on Java 17, Flink 1.16.3 on Java 11 and Flink 1.20.5 on Java 17.

Replaced, to have the same bytes from each run: ids, UUIDs, times, and sizes or addresses of the
machine by values of the same form. All else is as the programs wrote it. Nothing is edited by hand.
"""

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import private_root  # noqa: E402
from cases import CASES, PASSWORD, flink_confs, spark_confs, template  # noqa: E402
from kubernetes_api import KubernetesApi, make_certificate  # noqa: E402

HOST, API_HOST = "client", "api.example"
PORT = 443
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
KUBECONFIG = "/opt/templates/kubeconfig"
SPARK, FLINK = Path("/opt/spark"), Path("/opt/flink")
INSIDE = "--inside"


def normal(text: str) -> str:
    """Replace what differs between runs by values of the same form."""
    for pattern, value in (
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "00000000-0000-4000-8000-000000000000"),
        (r"\b(spark(?:-application)?-)[0-9a-f]{32}\b", r"\g<1>0123456789abcdef0123456789abcdef"),
        (r"(?<=-)[0-9a-f]{16}(?=-)", "0123456789abcdef"),
        (r"#\w{3} \w{3} \d\d [\d:]{8} \w+ 20\d\d\b", "#Mon Jan 01 00:00:00 UTC 2024"),
        (r'(?<="_SPARK_AUTH_SECRET": ")[0-9a-f]+', "00" * 32),
        (r"(submitTime=)\d{13}\b", r"\g<1>1704067200000"),
    ):
        text = re.sub(pattern, value, text)
    return text


def capture(pod: Mapping[str, Any], file: str | None, text: str | None) -> dict[str, Any]:
    """Give what a file of this folder holds, from a pod's specification."""
    container = pod["containers"][0]
    kinds = {
        volume["name"]: next(key for key in sorted(volume) if key != "name")
        for volume in pod.get("volumes", [])
    }
    return {
        "container": container["name"],
        "command": container.get("command"),
        "args": container.get("args"),
        "env": {
            entry["name"]: entry["valueFrom"] if entry.get("valueFrom") else entry.get("value", "")
            for entry in container.get("env", [])
        },
        "mounts": {
            mount["mountPath"]: kinds.get(mount["name"], "")
            for mount in container.get("volumeMounts", [])
        },
        "properties_file": file,
        "properties": text,
    }


def native_env(env: Mapping[str, Any]) -> dict[str, str]:
    """Give the variables that a pod's program would see, on this machine."""
    known = {"status.podIP": "127.0.0.1", "metadata.name": "pod", "spec.nodeName": "node"}
    found = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(PORT)}
    found["KUBECONFIG"] = "/dev/null"
    for name, value in env.items():
        if isinstance(value, str):
            found[name] = value
        elif "fieldRef" in value:
            found[name] = known[value["fieldRef"]["fieldPath"]]
        else:
            found[name] = PASSWORD
    return found


def run(command: list[str], env: Mapping[str, str]) -> None:
    """Run a client to its end."""
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{command[0]}: {done.returncode}\n{done.stdout[-6000:]}{done.stderr[-6000:]}")


@contextmanager
def running(command: list[str], env: Mapping[str, str]) -> Iterator[None]:
    """Have a program running, with what it says in the error if it does not come that far."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, env=env, stdout=log, stderr=log, text=True, start_new_session=True
        )
        try:
            yield
        except AssertionError as error:
            log.seek(0)
            sys.exit(f"{command[0]}: {error}\n{log.read()[-8000:]}")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def name_host(*names: str) -> None:
    """Let names stand for this machine."""
    known = ("localhost", HOST, API_HOST, "kubernetes.default.svc", *names)
    Path("/etc/hosts").write_text(f"127.0.0.1 {' '.join(known)}\n")


def make_cluster() -> None:
    """Make the API server's certificate, a client's configuration and a pod's service account."""
    folder = Path(KUBECONFIG).parent
    ACCOUNT.mkdir(parents=True)
    certificate, _ = make_certificate(folder, "kubernetes.default.svc", API_HOST)
    shutil.copy(certificate, ACCOUNT / "ca.crt")
    (ACCOUNT / "token").write_text(PASSWORD)
    (ACCOUNT / "namespace").write_text("default")
    server = {"server": f"https://{API_HOST}:{PORT}", "certificate-authority": f"{ACCOUNT}/ca.crt"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": server}],
        "users": [{"name": "test", "user": {"token": PASSWORD}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    Path(KUBECONFIG).write_text(json.dumps(config))


def make_keystore(java: str, path: Path) -> None:
    """Make a key and a certificate for Spark's or Flink's TLS."""
    path.parent.mkdir(parents=True)
    names = ["-genkeypair", "-alias", "test", "-dname", "CN=localhost", "-keyalg", "RSA"]
    store = ["-keystore", str(path), "-storetype", "JKS", "-storepass", PASSWORD]
    run([f"{java}/bin/keytool", *names, *store, "-keypass", PASSWORD], os.environ)


def api_server() -> KubernetesApi:
    """Give the recording server: at the client's address, and where a pod finds it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    folder = Path(KUBECONFIG).parent
    context.load_cert_chain(folder / "api.crt", folder / "api.key")
    return KubernetesApi(PORT, context)


def write_maps(api: KubernetesApi, pod: Mapping[str, Any]) -> dict[str, str]:
    """Put the files of a pod's config maps where it has them; gives path → text."""
    maps = {body["metadata"]["name"]: body["data"] for body in api.objects("configmaps")}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    written = {}
    for mount in pod["containers"][0]["volumeMounts"]:
        volume = volumes[mount["name"]].get("configMap")
        if volume is None:
            continue
        data = maps[volume["name"]]
        items = volume.get("items") or [{"key": key, "path": key} for key in data]
        folder = Path(mount["mountPath"])
        folder.mkdir(parents=True, exist_ok=True)
        for item in items:
            if item["key"] in data:
                (folder / item["path"]).write_text(data[item["key"]])
                written[str(folder / item["path"])] = data[item["key"]]
    return written


def asked_for(api: KubernetesApi) -> list[str]:
    """Give what was asked of the API server since the last time, as ``create deployments.apps``."""
    found, api.requests = api.requests, set()
    return sorted(f"{verb} {plural}.{group}".rstrip(".") for verb, group, plural in found)


# ---- Spark


def record_spark(java: str, case: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Submit in cluster mode, start the driver, wait for executors: role and capture of each."""
    env = {
        "PATH": "/usr/bin:/bin",
        "JAVA_HOME": java,
        "SPARK_HOME": str(SPARK),
        "SPARK_SCALA_VERSION": "2.13",
        "HOME": "/root",
        "KUBECONFIG": KUBECONFIG,
    }
    (jar,) = (SPARK / "examples" / "jars").glob("spark-examples_*.jar")
    job = ["--class", "org.apache.spark.examples.SparkPi", f"local://{jar}", "10"]
    if case == "python":
        job = [f"local://{SPARK}/examples/src/main/python/pi.py", "10"]
    confs = [f"{name}={value}" for name, value in spark_confs(case).items()]
    with api_server() as api:
        master = ["--master", f"k8s://https://{API_HOST}:{PORT}", "--deploy-mode", "cluster"]
        options = [word for conf in confs for word in ("--conf", conf)]
        submit = str(SPARK / "bin" / "spark-submit")
        run([submit, *master, "--name", "spark-pi", *options, *job], env)
        driver = api.wait_for("pods", 1)[0]["spec"]
        asked = {"client": asked_for(api)}
        files = write_maps(api, driver)
        file = str(SPARK / "conf" / "spark.properties")
        found = capture(driver, file, files[file])
        yield "driver", found
        if case == "python":
            return
        host = re.search(r"(?m)^spark\.driver\.host=(.+)$", files[file])
        assert host is not None
        name_host(host[1])
        pod_env = native_env(found["env"])
        bind = f"spark.driver.bindAddress={pod_env['SPARK_DRIVER_BIND_ADDRESS']}"
        start = [submit, "--conf", bind, "--deploy-mode", "client", *found["args"][1:]]
        with running(start, {**env, **pod_env}):
            pods = api.wait_for("pods", 3)
            asked["driver"] = asked_for(api)
        first = next(p for p in pods if p["metadata"]["labels"].get("spark-exec-id") == "1")
        yield "executor", capture(first["spec"], None, None)
        yield "requests", asked


# ---- Flink


def record_flink(java: str, case: str, version: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Start a cluster, its JobManager, wait for a TaskManager: role and capture of each."""
    cluster = "word-count"
    env = {"PATH": "/usr/bin:/bin", "JAVA_HOME": java, "HOME": "/root"}
    env |= {"KUBECONFIG": KUBECONFIG, "FLINK_LOG_DIR": "/opt/log"}
    options = [f"-D{name}={value}" for name, value in flink_confs(case, version, cluster).items()]
    name_host(f"{cluster}.default", f"{cluster}-rest.default")
    with api_server() as api:
        if case == "session":
            # The configuration comes after the deployment that wants it.
            with running([str(FLINK / "bin" / "kubernetes-session.sh"), *options], env):
                api.wait_for("configmaps", 1)
        else:
            jar = f"local://{FLINK}/examples/WordCount.jar"
            job = ["-c", "io.imagekit.jobs.WordCount", jar, "--rounds", "3"]
            target = ["run-application", "--target", "kubernetes-application"]
            run([str(FLINK / "bin" / "flink"), *target, *options, *job], env)
        manager = api.wait_for("deployments", 1)[0]["spec"]["template"]["spec"]
        asked = {"client": asked_for(api)}
        found, folder = flink_capture(api, manager)
        yield "jobmanager", found
        if case == "session":
            return
        script = found["args"][-1].split()
        start = [str(FLINK / "bin" / script[0]), *script[1:]]
        with running(start, {**env, **native_env(found["env"]), "FLINK_CONF_DIR": folder}):
            pods = api.wait_for("pods", 1)
            asked["jobmanager"] = asked_for(api)
        yield "taskmanager", flink_capture(api, pods[0]["spec"])[0]
        yield "requests", asked


def flink_capture(api: KubernetesApi, pod: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Give a capture with Flink's configuration, and the folder that holds it."""
    files = write_maps(api, pod)
    names = ("flink-conf.yaml", "config.yaml")
    path = next(path for path in files if path.endswith(names))
    return capture(pod, path, files[path]), str(Path(path).parent)


# ---- all of it


def install(home: str, target: Path) -> None:
    """Show a product where its image has it, with folders beside that can be written."""
    for folder in sorted(Path(home).iterdir()):
        if folder.is_dir():
            (target / folder.name).mkdir(parents=True)
            subprocess.run(["mount", "--bind", folder, target / folder.name], check=True)


def inside(arguments: list[str]) -> None:
    """Record one case of a version, in a root of its own; writes JSON to standard output."""
    product, version, home, java, case = arguments
    private_root.enter(HOST)
    name_host()
    templates = Path("/opt/templates")
    templates.mkdir()
    for name, container in (
        ("spark-driver", "spark-kubernetes-driver"),
        ("spark-executor", "spark-kubernetes-executor"),
        ("flink", "flink-main-container"),
    ):
        (templates / f"{name}.json").write_text(template(container))
    make_cluster()
    for path in ("/ppml/keys/keystore.jks", "/ppml/flink/keys/flink_internal.keystore"):
        make_keystore(java, Path(path))
    install(home, SPARK if product == "spark" else FLINK)
    steps = record_spark(java, case) if product == "spark" else record_flink(java, case, version)
    found = {}
    for role, content in steps:
        name = "-".join(filter(None, (product, version, case, role)))
        found[f"{name}.json"] = content
        print(name, file=sys.stderr)
    json.dump(found, sys.stdout)


def main(arguments: list[str]) -> int:
    """Record all versions, or those that are named."""
    from runtime_parts import FLINK_VERSIONS, SPARK_VERSIONS, flink, spark

    check = "--check" in arguments
    wanted = [word for word in arguments if not word.startswith("-")]
    versions = [("spark", version) for version in SPARK_VERSIONS]
    versions += [("flink", version) for version in FLINK_VERSIONS]
    differing = []
    for product, version in versions:
        if wanted and version not in wanted:
            continue
        runtime = spark(version) if product == "spark" else flink(version)
        parts = [product, version, str(runtime.home), str(runtime.java)]
        for case in CASES[product]:
            here = [*private_root.SPACES, sys.executable, __file__, INSIDE, *parts, case]
            done = subprocess.run(here, stdout=subprocess.PIPE, check=True)
            for name, content in json.loads(done.stdout).items():
                text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
                text = normal(text)
                if not check:
                    (HERE / name).write_text(text)
                elif name.endswith("-requests.json"):
                    continue
                elif not (HERE / name).exists() or (HERE / name).read_text() != text:
                    differing.append(name)
    for name in differing:
        print(f"{name} differs")
    return 1 if differing else 0


if __name__ == "__main__":
    if sys.argv[1:2] == [INSIDE]:
        inside(sys.argv[2:])
    else:
        sys.exit(main(sys.argv[1:]))

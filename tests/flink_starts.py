"""What tests of Flink's roles share: real starts on Kubernetes, an image, requests to it."""

import json
from pathlib import Path

import pytest

from imagekit.runtime import flink, flink_args, flink_host
from imagekit.runtime.flink_conf import FILE_KEY, parse_conf
from imagekit.runtime.launch import launch_spec, parse_launch
from imagekit.runtime.place import ENCLAVE, NATIVE, Place
from imagekit.runtime.request import Request
from imagekit.runtime.stop import Stop

__all__ = [
    "CONF_FOLDER",
    "HERE",
    "IDS",
    "INTERNAL_TLS",
    "IN_8G",
    "REST_TLS",
    "STARTS",
    "ask",
    "home",
    "refused",
    "request_of",
    "sealing",
    "spec",
    "written",
]

GOLDEN = Path(__file__).parent / "golden" / "flink"
PODS = Path(__file__).parent / "golden" / "kubernetes"


def _recorded():
    """Starts with odd arguments, then those of BigDL's guide, of which some set TLS up."""
    yield from json.loads((GOLDEN / "kubernetes.json").read_text())
    for path in sorted(PODS.glob("flink-*manager.json")):
        pod = json.loads(path.read_text())
        words = path.stem.split("-")
        kind = "session" if "session" in words else "application"
        yield {
            "flink": words[1],
            "kind": "taskmanager" if words[-1] == "taskmanager" else kind,
            "args": pod["args"],
            "env": {name: pod["env"][name] for name in pod["env"] if name in flink_host.VARIABLES},
            "file": pod["properties_file"].rpartition("/")[2],
            "conf": pod["properties"],
        }


STARTS = list(_recorded())
IDS = [f"{start['flink']}-{start['kind']}" for start in STARTS]

HERE = Place(NATIVE, False, None, "/none")
IN_8G = Place(ENCLAVE, True, 8 << 30, "/dev/attestation")
INTERNAL_TLS = {
    "security.ssl.internal.enabled": "true",
    "security.ssl.internal.keystore": "/data/flink.keystore",
    "security.ssl.internal.keystore-password": "sealed pass'word",
}
REST_TLS = {
    "security.ssl.rest.enabled": "true",
    "security.ssl.rest.authentication-enabled": "true",
}
NAMED = {
    "classes": ["org.example.WordCount", "io.imagekit.jobs.WordCount"],
    "jars": ["/opt/job/job.jar", "/opt/flink/examples/WordCount.jar"],
    "arguments": ".{1,9}",
}
MEMORY = {
    "jobmanager.memory.process.size": "1600m", "taskmanager.memory.process.size": "1728m",
    "jobmanager.rpc.address": "jm",
}  # fmt: skip
JARS = ("flink-csv.jar", "flink-dist-1.jar", "flink-zzz.jar", "log4j-core.jar")
CONF_FOLDER = "/tmp/imagekit/flink-conf"


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """FLINK_HOME: the launcher looks at the names of jars alone."""
    folder = tmp_path_factory.mktemp("flink")
    (folder / "lib").mkdir()
    for name in JARS:
        (folder / "lib" / name).touch()
    (folder / "lib" / "README.txt").touch()
    return str(folder)


@pytest.fixture(scope="session")
def spec(home):
    """Makes a launch specification; a strict one seals TLS between Flink's processes."""

    def make(profile="strict", version="1.20.5", java=None, **more):
        java = java or (17 if version >= "1.18" else 11)
        more.setdefault("conf", INTERNAL_TLS if profile == "strict" else {})
        return parse_launch(
            launch_spec(
                profile=profile,
                roles=["jobmanager", "standalone-job", "taskmanager"],
                java={"home": "/jdk", "major": java},
                flink={"home": home, "version": version},
                **{**NAMED, **more},
            )
        )

    return make


def request_of(start):
    """The launch request of a recorded start, as the entry point makes it."""
    role, args = flink_args.container_role(start["args"])
    fields = {"_POD_IP_ADDRESS": "10.1.2.3", "_POD_NODE_ID": "node-1"}
    env = {name: fields.get(name, value) for name, value in start["env"].items()}
    env.setdefault("_POD_IP_ADDRESS", "10.1.2.3")  # the entry point's, for a TaskManager
    return Request(role, args, env, parse_conf(start["conf"], start["file"]))


def sealing(request):
    """What an image seals so that a start's own keys are the image's."""
    tls = {name: value for name, value in request.conf.items() if name.startswith("security.")}
    return {**INTERNAL_TLS, **REST_TLS, **tls}


def written(command):
    """The configuration that a command's program reads."""
    ((path, data),) = [item for item in command.files.items() if item[0].startswith(CONF_FOLDER)]
    conf = parse_conf(data.decode(), path.rpartition("/")[2])
    del conf[FILE_KEY]
    return conf


def ask(role, *args, conf=None, **env):
    """A request with properties that suffice for every role."""
    return Request(role, args, env, {**MEMORY, **(conf or {})})


def refused(spec, request, place=HERE, code=2):
    """The one line with which a request is refused."""
    with pytest.raises(Stop) as stop:
        flink.compose(spec, request, place)
    assert stop.value.code == code
    assert "\n" not in stop.value.line
    return stop.value.line

"""Images with real Spark for the jobs of ``tests/jobs``, and what Spark gave its pods."""

import json
from contextlib import contextmanager
from pathlib import Path

from image_layout import PASSWORD, secrets
from real_runs import image
from runtime_parts import spark

from imagekit.runtime.properties import parse_properties

CAPTURES = Path(__file__).parents[1] / "golden" / "kubernetes"
PI = "org.apache.spark.examples.SparkPi"
MARKER_SHUFFLE = "io.imagekit.jobs.MarkerShuffle"
ROLES = ["driver", "executor", "submit", "thrift"]
LOCAL = ("submit", "--master", "local[2]")


def captured(version, role, case="secure"):
    """What real Spark gave a pod."""
    name = "-".join(filter(None, ("spark", version, case, role)))
    return json.loads((CAPTURES / f"{name}.json").read_text())


def security(version="3.5.9"):
    """The confs of authentication and encryption as a job brings them, passwords among them."""
    protects = ("spark.authenticate", "spark.network.crypto", "spark.io.encryption", "spark.ssl")
    conf = parse_properties(captured(version, "driver")["properties"])
    return {name: value for name, value in conf.items() if name.startswith(protects)}


SECURITY = security()
PASSWORDS = {name for name, value in SECURITY.items() if value == PASSWORD}
SEALED = {name: value for name, value in SECURITY.items() if name not in PASSWORDS}


def jar(runtime):
    """Where the image has the jobs."""
    return f"/opt/spark/{runtime.examples_jar.relative_to(runtime.home)}"


def job(runtime, name=PI):
    return ("--class", name, f"local://{jar(runtime)}")


@contextmanager
def spark_image(version="3.5.9", profile="strict", secure=False, conf=None, **more):
    """An image with Spark for the jobs of the tests, and a job's properties if it is secure."""
    runtime = spark(version)
    allowed = {
        "roles": ROLES,
        "classes": [PI, MARKER_SHUFFLE],
        "jars": [jar(runtime)],
        "arguments": "[A-Za-z0-9/_-]{1,64}",
        "conf": {**(SEALED if secure else {}), **(conf or {})} if profile == "strict" else {},
        "conf_allowed": dict.fromkeys(sorted(PASSWORDS), r"[!-~]{8,64}") if secure else {},
    }
    files = {"/ppml/keys/keystore.jks": secrets("ssl")["keystore.jks"]} if secure else {}
    with image(runtime, profile, files, **{**allowed, **more}) as made:
        if secure:
            lines = "".join(f"{name} {value}\n" for name, value in SECURITY.items())
            made.write({"/opt/spark/conf/spark-defaults.conf": lines})
        yield made, runtime

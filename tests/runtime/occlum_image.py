"""An image with an enclave of Occlum made of files, and a command that starts it as Occlum would.

The command runs the program natively, in the environment that Occlum's rules give it: the values of
``env.default``, and those of the host's variables that ``env.untrusted`` names. As Occlum, it takes
programs of ``entry_points`` alone, and the whole first line of a script for its interpreter.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from imagekit.runtime import occlum, plan
from imagekit.runtime.files import build_zipapp, occlum_start
from imagekit.runtime.launch import launch_spec
from imagekit.runtime.paths import APP
from imagekit.runtime.place import occlum_environment
from imagekit.runtime.request import VARIABLE

COMMAND = f"""#!{sys.executable} -IS
import json, os, sys
if sys.argv[1] != "run":
    sys.exit("unknown command")
program, words = sys.argv[2], sys.argv[2:]
with open("Occlum.json") as file:
    config = json.load(file)
parts = program.split("/")
allowed = [entry.split("/") for entry in config["entry_points"]]
if parts[0] or ".." in parts or not any(parts[: len(top)] == top for top in allowed):
    sys.exit("not a valid entry point")
env = dict(entry.split("=", 1) for entry in config["env"]["default"])
for name in config["env"]["untrusted"]:
    if name in os.environ:
        env[name] = os.environ[name]
with open(program, "rb") as file:
    line = file.readline(128)
if line.startswith(b"#!"):
    words = [line[2:].strip().decode(), *words]
print("log", os.environ.get("OCCLUM_LOG_LEVEL"), file=sys.stderr, flush=True)
os.execve(words[0], words, env)
"""
SHOW = "import json,os;print(json.dumps(dict(os.environ)))"
SEALED = [sys.executable, "-I", "-c", SHOW]
JAVA = {"home": "/opt/java", "major": 17}
SPARK = {"home": "/opt/spark", "version": "3.5.9"}
CONFIG = {
    "resource_limits": {
        "user_space_size": "8GB",
        "kernel_space_heap_size": "1GB",
        "max_num_of_threads": 512,
    },
    "metadata": {"debuggable": False},
}
CODE = """
import json, sys
from imagekit.runtime import outside, plan
from imagekit.runtime.stop import Stop
places, spec, *rest = sys.argv[1:]
places = [tuple(p) if isinstance(p, list) else p for p in json.loads(places)]
try:
    outside.start(rest, spec, plan.Places(*places))
except Stop as stop:
    print(stop.line, file=sys.stderr)
    sys.exit(stop.code)
"""


class Image:
    """The image.

    Attributes:
        app: where the launcher is.
        instance: the Occlum instance.
        places: where things stand.
        env: of the container.
        config: ``Occlum.json``, written at each start.
    """

    def __init__(self, folder: Path) -> None:
        self.app, self.instance = folder / "imagekit", folder / "instance"
        programs = folder / "bin"
        for made in (self.app / "enclave", self.instance / "build/lib", programs):
            made.mkdir(parents=True)
        (self.app / "launcher.pyz").write_bytes(build_zipapp())
        self.start_file = self.app / "enclave" / "start"
        self.start_file.write_text(occlum_start(sys.executable).replace(APP, str(self.app)))
        self.start_file.chmod(0o755)
        (self.instance / occlum.LIBRARY).touch()
        (self.instance / occlum.STATUS_FILE).write_text("built\n")
        (self.instance / occlum.MODE_FILE).write_text("HW\n")
        (programs / "occlum").write_text(COMMAND)
        (programs / "occlum").chmod(0o755)
        (folder / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu sgx sgx_lc\n")
        self.cpuinfo = folder / "cpuinfo"
        self.env = {"PATH": f"{programs}:/usr/bin:/bin"}
        self.places = plan.Places(
            devices=("/dev/null",),
            provision=("/dev/null",),
            aesm="/nonexistent/aesm",
            qcnl=str(folder / "qcnl.conf"),
            temporary=str(folder),
            instance=str(self.instance),
            start=str(self.start_file),
            occlum="/nonexistent/occlum",
            cpuinfo=str(self.cpuinfo),
        )
        self.config = {
            **CONFIG,
            "entry_points": [str(self.app / "enclave")],
            "env": {
                "default": [
                    f"{name}={value}"
                    for name, value in {
                        "PATH": "/usr/bin:/bin",
                        "SEALED": "1",
                        **occlum_environment("8G", "dcap"),
                    }.items()
                ],
                "untrusted": [VARIABLE],
            },
        }
        self.seal()

    @property
    def spec(self) -> Path:
        return self.app / "launch.json"

    def seal(self, argv=SEALED, **more):
        more = {"libos": "occlum", "java": JAVA, "spark": SPARK, **more}
        self.spec.write_bytes(launch_spec(argv, more.pop("env", None), **more))
        self.write()

    def write(self):
        (self.instance / "Occlum.json").write_text(json.dumps(self.config))

    def decide(self, *arguments, **env):
        from imagekit.runtime import outside

        return outside.decide(arguments, {**self.env, **env}, self.places, str(self.spec))

    def start(self, *arguments, **env):
        root = str(Path(plan.__file__).parent.parent.parent)
        return subprocess.run(
            [sys.executable, "-c", CODE, json.dumps(self.places), str(self.spec), *arguments],
            env={**self.env, "PYTHONPATH": root, **env},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def run(self, *words, **env):
        """What a host does that goes past the entry point: ``occlum run …``."""
        return subprocess.run(
            ["occlum", "run", *words],
            cwd=self.instance,
            env={**os.environ, **self.env, **env},
            capture_output=True,
            text=True,
            timeout=60,
        )

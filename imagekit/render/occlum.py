"""``Occlum.json`` of a cell, from a template, and the script that builds an instance with it.

What stands in the image is the canonical form of what a template gives: the same JSON with the keys
in the order of Occlum's own template, so that two templates which say the same give the same bytes.
"""

import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imagekit.enclave.occlum.document import parse_document
from imagekit.enclave.occlum.keys import names, table_path
from imagekit.enclave.occlum.sizes import occlum_size
from imagekit.enclave.occlum.versions import OcclumVersion
from imagekit.errors import InputError, UsageError
from imagekit.render.bom import OWN_ETC, REFUSED_PATHS
from imagekit.render.templates import render_text, template_folder
from imagekit.runtime.paths import APP, OCCLUM_START
from imagekit.runtime.place import occlum_environment
from imagekit.runtime.request import VARIABLE as REQUEST_VARIABLE
from imagekit.spec.options import OcclumKss, OcclumMount, OcclumOptions
from imagekit.spec.sizes import gramine_size

TEMPLATES = {"strict": "strict.Occlum.json.template", "compat": "bigdl.Occlum.json.template"}
"""The template of each profile, in the folder ``occlum/``."""
SCRIPT_TEMPLATE = "build-instance.sh.template"

_MOUNT_KEYS = ("target", "type", "source", "options")  # as Occlum's own template has them


@dataclass(frozen=True)
class OcclumInputs:
    """What the ``Occlum.json`` of a cell depends on.

    Attributes:
        version: whose document it is.
        profile: ``strict`` or ``compat``.
        user_space: bytes that programs share, the cell's EPC size.
        log: the cell's log level; ``off`` has the library OS say nothing at all.
        attestation: ``dcap`` or ``none``.
        max_threads: threads of the enclave.
        product_id, version_number: ISVPRODID and ISVSVN, u16.
        debug: whether a host may debug the enclave.
        edmm: whether pages are added as they are used.
        environment: variables with fixed values; the launcher's own are added.
        passthrough: variables that a host may set; the launch request is added.
        options: the section ``occlum`` of the project file.
        python_lib: folder of Python's library.
        java_home, spark_home, flink_home: "" if not there.
    """

    version: OcclumVersion
    profile: str
    user_space: int
    log: str
    attestation: str
    max_threads: int
    product_id: int
    version_number: int
    debug: bool
    edmm: bool
    environment: Mapping[str, str]
    passthrough: Sequence[str]
    options: OcclumOptions
    python_lib: str
    java_home: str = ""
    spark_home: str = ""
    flink_home: str = ""

    @property
    def sealed(self) -> dict[str, str]:
        """What the launcher goes by inside, and a host must not choose."""
        return occlum_environment(gramine_size(self.user_space), self.attestation)

    @property
    def untrusted(self) -> list[str]:
        """The variables that a host may set, the launch request first."""
        names = dict.fromkeys([REQUEST_VARIABLE, *self.passthrough])
        return [name for name in names if name not in self.sealed]

    @property
    def disable_log(self) -> bool:
        """Whether the library OS says nothing; without the key a release enclave never would."""
        given = self.options.disable_log
        return self.log == "off" if given is None else given


@dataclass(frozen=True)
class OcclumJson:
    """A rendered ``Occlum.json``.

    Attributes:
        name: of the template, for messages.
        source: the rendered template as it is.
        document: the same, parsed.
        text: the canonical form, UTF-8: what goes into the image.
    """

    name: str
    source: bytes
    document: Mapping[str, Any]
    text: bytes


def template_variables(inputs: OcclumInputs) -> dict[str, Any]:
    """Give everything that a template may use; see ``docs/occlum.md``."""
    options = inputs.options
    heap_max = options.kernel_heap if options.kernel_heap_max is None else options.kernel_heap_max
    most = options.user_space_max
    return {
        "version": inputs.version,
        "user_space_size": occlum_size(inputs.user_space),
        "user_space_max_size": None if most is None else occlum_size(most),
        "kernel_heap_size": occlum_size(options.kernel_heap),
        "kernel_heap_max_size": occlum_size(heap_max),
        "kernel_stack_size": occlum_size(options.kernel_stack),
        "max_threads": inputs.max_threads,
        "init_threads": options.init_threads,
        "process": {name: occlum_size(size) for name, size in options.process._asdict().items()},
        "start_folder": posixpath.dirname(OCCLUM_START),
        "entry_points": list(options.entry_points),
        "env": {**inputs.environment, **inputs.sealed},
        "untrusted": inputs.untrusted,
        "product_id": inputs.product_id,
        "version_number": inputs.version_number,
        "debug": inputs.debug,
        "log_level": inputs.log,
        "disable_log": inputs.disable_log,
        "edmm": inputs.edmm,
        "attestation": inputs.attestation,
        "features": options.features._asdict(),
        "kss": _kss(options.kss),
        "mounts": [_mount(mount) for mount in options.mounts],
        "python_lib": inputs.python_lib,
        "java_home": inputs.java_home,
        "spark_home": inputs.spark_home,
        "flink_home": inputs.flink_home,
    }


def render_occlum(inputs: OcclumInputs) -> OcclumJson:
    """Render the document of a cell; what it says is not judged here.

    See :func:`imagekit.enclave.occlum.config.config_findings` for the rules of a version, and
    :func:`imagekit.render.occlum_agreement.check_agrees` for what cell and project say.

    Raises:
        InputError: the template cannot be read or rendered, or gives no JSON; with the line.
        UsageError: a variable of the user's own that no template can use.
    """
    text, name = _template(inputs)
    variables = template_variables(inputs)
    own = dict(inputs.options.define)
    for variable in own:
        if not variable.isidentifier():
            raise UsageError(
                f"-D {variable}: no template can use a variable of that name",
                "use letters and digits",
            )
        if variable in variables:
            raise UsageError(
                f"-D {variable}: this variable is imagekit's own", "choose another name for yours"
            )
    source = render_text(text, variables | own, name).encode("utf-8", "surrogatepass")
    document = parse_document(source, f"{name} as rendered")
    return OcclumJson(name, source, document, canonical_text(document, inputs.version))


def canonical_text(document: Mapping[str, Any], version: OcclumVersion) -> bytes:
    """Give a document as bytes: two blanks per level, keys in the order of Occlum's own template.

    Keys that the version does not have come last, sorted; lists keep their order.

    Args:
        document: parsed JSON.
        version: whose keys.

    Raises:
        InputError: nested too deeply.
    """
    try:
        ordered = _ordered(document, "", version)
        return (json.dumps(ordered, indent=2, ensure_ascii=False) + "\n").encode()
    except RecursionError:
        raise InputError("Occlum.json: nested too deeply", "take levels out") from None


def _ordered(value: object, path: str, version: OcclumVersion) -> object:
    if isinstance(value, list):
        return [_ordered(item, f"{path}[]", version) for item in value]
    if not isinstance(value, Mapping):
        return value
    table = table_path(path)
    known = _MOUNT_KEYS if table == "mount[]" else names(table, version)
    keys = [key for key in known if key in value] + sorted(value.keys() - set(known))
    dot = f"{path}." if path else ""
    return {key: _ordered(value[key], f"{dot}{key}", version) for key in keys}


def build_script(edmm: bool = False) -> str:
    """Give the POSIX shell script that builds an instance in a container of the base.

    It is called with four absolute paths: ``Occlum.json``, the file for ``copy_bom``, a throw-away
    key, which it removes, and the instance's folder. It ends with 127 where Occlum is missing.

    Args:
        edmm: pass ``--enable-edmm Y`` (Occlum 0.30.0 and later). 0.30.0 has no key for it in
            Occlum.json.
    """
    text = (template_folder("occlum") / SCRIPT_TEMPLATE).read_text("utf-8")
    variables = {"refused": sorted(REFUSED_PATHS), "own_etc": OWN_ETC, "app": APP, "edmm": edmm}
    return render_text(text, variables, SCRIPT_TEMPLATE)


def _template(inputs: OcclumInputs) -> tuple[str, str]:
    """Text and name of the template."""
    path = inputs.options.template or template_folder("occlum") / TEMPLATES[inputs.profile]
    try:
        return path.read_text("utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: {reason}", "check occlum.template") from None


def _kss(kss: OcclumKss | None) -> dict[str, Any]:
    def halves(digits: str) -> dict[str, str]:
        return {"high": f"{int(digits[:16], 16):#x}", "low": f"{int(digits[16:], 16):#x}"}

    ids = kss or OcclumKss()
    return {
        "enabled": kss is not None,
        "family_id": halves(ids.family_id),
        "ext_prod_id": halves(ids.ext_prod_id),
    }


def _mount(mount: OcclumMount) -> dict[str, Any]:
    found: dict[str, Any] = {"target": mount.target, "type": mount.type}
    if mount.source is not None:
        found["source"] = mount.source
    if mount.options:
        found["options"] = dict(mount.options)
    return found

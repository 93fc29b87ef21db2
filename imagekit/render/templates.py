"""Template folders and the jinja2 environment that all of them are rendered with.

The folders (``dockerfiles/``, ``gramine/``, ``occlum/``) stand at the top of the source tree so
that they can be read without knowing the code; the wheel carries them inside the package. All are
reached through :func:`template_folder` and nothing else.
"""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from imagekit.errors import ImagekitError, InputError

_PACKAGED = Path(__file__).parent.parent / "_templates"
_SOURCE_TREE = Path(__file__).parent.parent.parent


def template_folder(name: str) -> Path:
    """Give a template folder, from the wheel or from the source tree.

    Raises:
        InputError: the installation is incomplete.
    """
    for root in (_PACKAGED, _SOURCE_TREE):
        if (root / name).is_dir():
            return root / name
    raise InputError(f"template folder {name}/ is missing", "install imagekit again")


def toml_literal(value: object) -> str:
    """Give a TOML literal for a string, boolean, integer or sequence of these.

    A basic string of TOML takes the escapes that JSON writes; DEL, which JSON leaves as it is, is
    not allowed in one. A strict TOML parser (and Gramine's 1.3-era one) reads the result.
    """
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises the error that names the variable
    if isinstance(value, bool | int | str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Sequence):
        return "[" + ", ".join(toml_literal(item) for item in value) + "]"
    raise TypeError(f"no TOML literal for {type(value).__name__}")


def dockerfile_word(value: str) -> str:
    """Give a text as a quoted word of a Dockerfile's ENV, LABEL or WORKDIR.

    Inside double quotes a backslash takes the meaning of a backslash, a quote and a dollar sign.
    """
    quoted = "".join("\\" + c if c in '\\"$' else c for c in value)
    return f'"{quoted}"'


def json_literal(value: object) -> str:
    """Give JSON for a text, number, boolean, None, mapping, or any series of these.

    Words become an array, the exec form of a Dockerfile's ENTRYPOINT.
    """

    def other(inner: object) -> object:
        if isinstance(inner, jinja2.Undefined):
            str(inner)  # raises the error that names the variable
        if isinstance(inner, Iterable):
            return list(inner)
        raise TypeError(f"no JSON for {type(inner).__name__}")

    return json.dumps(value, ensure_ascii=False, default=other)


def environment() -> jinja2.Environment:
    """Give the jinja2 environment: undefined variables are errors, the last newline is kept."""
    # Autoescape is for HTML; the text here is TOML and goes through the `toml` filter.
    env = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    env.filters["toml"] = toml_literal
    env.filters["sh"] = shlex.quote
    env.filters["dockerfile"] = dockerfile_word
    env.filters["json"] = json_literal
    return env


@lru_cache(maxsize=8)
def _compiled(text: str) -> jinja2.Template:
    return environment().from_string(text)


def render_text(text: str, variables: Mapping[str, Any], name: str) -> str:
    """Render one template.

    Args:
        text: the template.
        variables: what it may use.
        name: its file name, for error messages.

    Raises:
        InputError: undefined variable, syntax error, or an expression that fails, with file and
        line.
    """
    try:
        return _compiled(text).render(**variables)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"{name}:{error.lineno}: {error.message}", "mend the template") from None
    except jinja2.UndefinedError as error:
        raise InputError(
            f"{name}:{_line_of(error)}: {error.message}", "define it with -D NAME=VALUE"
        ) from None
    except ImagekitError:
        raise  # of a function that the template called
    except Exception as error:
        # A template may call anything on the values it is given; whatever that raises is its error.
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{name}:{_line_of(error)}: {what}", "mend the template") from None


def _line_of(error: BaseException) -> int:
    """Line of the template in which rendering failed: jinja2 maps its frames to template lines."""
    line = 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line

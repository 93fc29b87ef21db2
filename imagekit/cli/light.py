"""Commands that start quickly: plain parameters are converted here, not by pydantic.

typer converts the value of every parameter through pydantic, whose import takes longer than
everything ``imagekit plan`` does. Text, paths and flags need no conversion worth that. All other
parameters (numbers, choices, files, paths with conditions) are left to typer, and so is everything
if a release of typer keeps these things elsewhere.

Use: ``typer.Typer(cls=LightGroup)`` and ``app.command(cls=LightCommand)``.
"""

from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from typer.core import TyperCommand, TyperGroup

_PLAIN = (str, Path, bool)
# Conditions on paths and text that typer would check; their usual values mean "no condition".
_CONDITIONS = {
    "exists": False,
    "file_okay": True,
    "dir_okay": True,
    "writable": False,
    "resolve_path": False,
    "allow_dash": False,
    "path_type": None,
    "parser": None,
    "click_type": None,
}


class _Light:
    """Stands in for typer's converter of one parameter."""

    def __init__(self, leaf: Callable[[Any], Any], many: bool) -> None:
        self._leaf = leaf
        self._many = many

    def coerce(self, value: Any, param: object, ctx: object) -> Any:
        """Convert what the parser or the default gave."""
        if self._many:
            return [self._leaf(item) for item in value or ()]
        return None if value is None else self._leaf(value)


def _converter(parameter: Any) -> _Light | None:
    """Return the light converter of a parameter; None if it needs typer's."""
    descriptor = getattr(parameter, "type_descriptor", None)
    annotation = getattr(descriptor, "annotation", None)
    conditions = getattr(descriptor, "parameter_info", None)
    if any(getattr(conditions, name, usual) != usual for name, usual in _CONDITIONS.items()):
        return None
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        annotation = kinds[0] if len(kinds) == 1 else None
    many = get_origin(annotation) is list
    if many:
        (annotation,) = get_args(annotation)
    return _Light(annotation, many) if annotation in _PLAIN else None


def _lighten(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "_runtime_param", parameter) is None:
            parameter._runtime_param = _converter(parameter)  # None again: typer makes its own
    return parameters


class LightCommand(TyperCommand):
    """A command whose plain parameters need no pydantic."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, made light."""
        return _lighten(super().get_params(ctx))


class LightGroup(TyperGroup):
    """A group whose plain parameters need no pydantic."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, made light."""
        return _lighten(super().get_params(ctx))

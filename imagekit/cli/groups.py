"""Groups of commands that are loaded when they are used: no start pays for all of them."""

from collections.abc import MutableMapping
from functools import cached_property
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group_from_info
from typer.models import TyperInfo


class LaterGroup(TyperGroup):
    """A group without commands of its own: they are those of ``app`` in the module of its name."""

    @property
    def commands(self) -> MutableMapping[str, Any]:
        """Its commands; the first look loads them."""
        return self._loaded

    @commands.setter
    def commands(self, given: MutableMapping[str, Any]) -> None:
        """Take no others."""

    @cached_property
    def _loaded(self) -> MutableMapping[str, Any]:
        group = get_group_from_info(
            TyperInfo(import_module(f"imagekit.cli.{self.name}").app),
            pretty_exceptions_short=False,
            suggest_commands=self.suggest_commands,
            rich_markup_mode=self.rich_markup_mode,
        )
        return group.commands


def add_later(app: typer.Typer, name: str, text: str) -> None:
    """Add a group whose commands stand in the module of its name.

    Args:
        app: to which.
        name: of the group and of the module in ``imagekit.cli``, which has a Typer ``app``.
        text: its help.
    """
    app.add_typer(typer.Typer(cls=LaterGroup, help=text, no_args_is_help=True), name=name)

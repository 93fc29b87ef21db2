"""Light commands give the same values as typer's own, without pydantic where it is not needed."""

import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from imagekit.cli.light import LightCommand, LightGroup


class Colour(StrEnum):
    RED = "red"


def app(light: bool, seen: dict[str, Any]) -> typer.Typer:
    group = typer.Typer(cls=LightGroup) if light else typer.Typer()

    @group.callback()
    def options(loud: bool = False) -> None:
        seen["loud"] = loud

    @group.command(cls=LightCommand if light else None)
    def go(
        name: str,
        more: Annotated[list[Path] | None, typer.Argument()] = None,
        text: Annotated[str | None, typer.Option()] = None,
        word: str = "x",
        many: Annotated[list[str] | None, typer.Option("-m")] = None,
        path: Annotated[Path, typer.Option("-f")] = Path("here"),
        other: Annotated[Path | None, typer.Option()] = None,
        there: Annotated[Path | None, typer.Option(exists=True)] = None,
        flag: bool = False,
        count: int = 1,
        colour: Colour = Colour.RED,
    ) -> None:
        seen.update({k: v for k, v in locals().items() if k != "seen"})

    return group


@pytest.mark.parametrize(
    "arguments",
    [
        ["go", "a"],
        ["--loud", "go", "a", "b", "c"],
        ["go", "a", "--text", "t", "--word", "", "-m", "1", "-m", "2", "-f", "x/y", "--flag"],
        ["go", "1", "--no-flag", "--other", "~/x", "--count", "3", "--colour", "red"],
        ["go", "a", "--count", "x"],
        ["go", "a", "--colour", "blue"],
        ["go", "a", "--there", "/absent/file"],
        ["go", "a", "--there", "/"],
        ["go"],
        ["go", "a", "--text"],
        ["go", "a", "--unknown"],
    ],
)
def test_values_and_errors_are_the_same_as_typers_own(arguments: list[str]) -> None:
    heavy: dict[str, Any] = {}
    light: dict[str, Any] = {}
    expected = CliRunner().invoke(app(False, heavy), arguments)
    found = CliRunner().invoke(app(True, light), arguments)
    assert (found.exit_code, found.output) == (expected.exit_code, expected.output)
    assert light == heavy
    assert {k: type(v) for k, v in light.items()} == {k: type(v) for k, v in heavy.items()}


def test_a_command_with_plain_parameters_does_not_load_pydantic(tmp_path: Path) -> None:
    code = """
import sys, typer
from imagekit.cli.light import LightCommand, LightGroup
from imagekit.cli import project
app = typer.Typer(cls=LightGroup, rich_markup_mode=None)
app.command(cls=LightCommand)(project.init)
app.command(cls=LightCommand)(project.plan)
app(["init", "--json"], standalone_mode=False)
app(["plan", "--select", "*-8g-*", "--json"], standalone_mode=False)
sys.exit("pydantic" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)

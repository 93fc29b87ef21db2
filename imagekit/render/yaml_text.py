"""YAML that parsers of YAML 1.1 and 1.2 read alike."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_PLAIN = re.compile("[A-Za-z][A-Za-z0-9./-]+")


def to_yaml(objects: Sequence[Mapping[str, Any]]) -> bytes:
    """Write objects, in their own order of keys.

    Every text that another parser could take for something else is quoted: PyYAML would write
    ``1e5`` and ``y`` as they are, and others would read a number and a boolean.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        """With every text quoted that is not plainly a word; no aliases."""

        def ignore_aliases(self, data: object) -> bool:
            return True

    def represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        style = None if _PLAIN.fullmatch(text) else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, represent)
    return yaml.dump_all(
        objects,
        Dumper=Dumper,
        sort_keys=False,
        explicit_start=len(objects) > 1,
        width=float("inf"),
        allow_unicode=False,
        encoding="ascii",
    )

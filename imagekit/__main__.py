"""``python -m imagekit``: the same as the ``imagekit`` command."""

from imagekit.cli.main import main

main()

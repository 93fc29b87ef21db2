"""``python -m imagekit``: the same as the ``imagekit`` command."""

from imagekit.cli.entry import main

main()

"""imagekit: measured, signed and reproducible SGX enclave images.

The way of the data is in the folder names: :mod:`imagekit.spec` reads the project file,
:mod:`imagekit.render` writes the enclave configuration, :mod:`imagekit.images` reads bases and
writes images, :mod:`imagekit.enclave` measures, :mod:`imagekit.signing` signs,
:mod:`imagekit.release` puts the stages together and :mod:`imagekit.cli` is the command line.
"""

__version__ = "0.1.0"

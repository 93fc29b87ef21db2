"""Enclaves of the Intel SGX SDK, and so of Occlum: signed shared objects with ``.note.sgxmeta``."""

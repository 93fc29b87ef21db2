"""Enclave configuration as text: templates, defaults, trusted files, TOML."""

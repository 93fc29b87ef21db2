"""Registries: pull and push over the OCI distribution API."""

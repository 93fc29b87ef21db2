"""Fixtures with a real registry (Debian's docker-registry), plain and with TLS and passwords."""

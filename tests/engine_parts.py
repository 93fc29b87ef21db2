"""Fixtures with a real container engine (Debian's docker.io), private to the test run."""

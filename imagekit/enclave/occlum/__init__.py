"""Occlum: what ``Occlum.json`` may hold in each version, and the enclave that it makes."""

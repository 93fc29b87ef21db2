"""Signers: 256 bytes in, modulus and signature out."""

"""Pure SGX knowledge: ELF, layout, measurement, SIGSTRUCT. Bytes in, values out."""

"""Base images without a daemon: from a BaseSpec to layers, each piece checked and reproducible."""

"""Container engines that speak the Docker Engine API: images in and out, builds, containers."""

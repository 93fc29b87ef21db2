"""OCI images: blobs, layers, the merged view of a base, base builders."""

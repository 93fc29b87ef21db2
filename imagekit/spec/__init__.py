"""imagekit.yaml as typed values, the matrix, sizes and image names."""

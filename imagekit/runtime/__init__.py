"""What runs inside the image. Standard library only; shipped as one zipapp."""

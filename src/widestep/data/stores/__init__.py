"""Data sets on disk: where encoded images are. Nothing here decodes an image to train on it, or imports torch."""

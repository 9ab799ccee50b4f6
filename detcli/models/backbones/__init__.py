"""Backbones: image in, maps of stride 4, 8, 16 and 32 out."""

"""Augmentation and resizing of one image with its boxes."""

from detcli.data.transforms.build import Pipeline, build_transforms
from detcli.data.transforms.sample import Sample

__all__ = ["Pipeline", "Sample", "build_transforms"]

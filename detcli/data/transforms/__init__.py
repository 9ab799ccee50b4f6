"""Augmentation and resizing of one image with its boxes."""

from detcli.data.transforms.build import Pipeline, build_transforms, check_augmentations
from detcli.data.transforms.pool import Pool
from detcli.data.transforms.sample import Sample

__all__ = ["Pipeline", "Pool", "Sample", "build_transforms", "check_augmentations"]

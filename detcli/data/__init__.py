"""Images and annotations: readers, the record table, transforms and the loader.

Importing this package does not import torch; nor do `records`, `read` and the readers. Only
`transforms`, `dataset`, `loader` and `to_device` do.
"""

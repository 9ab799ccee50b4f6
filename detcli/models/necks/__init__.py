"""Necks: backbone maps in, one map of equal channels per pyramid level out."""

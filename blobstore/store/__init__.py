"""Tensors by name: stores that are read and written."""

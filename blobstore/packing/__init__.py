"""Packed files: tensors are compressed without loss, each still readable by name, and the original can be restored.

Spec: spec/packed.md.
"""

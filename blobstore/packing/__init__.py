"""Packed files: tensors compressed without loss, each still there by its name, and the way back.

Spec: spec/packed.md.
"""

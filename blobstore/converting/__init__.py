"""Checkpoints → .sbs files: what goes where is planned as data first, then run."""

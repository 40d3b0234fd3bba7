"""Rewrite a file: change names and metadata, add or move an index, recover a broken file."""

"""Bytes to and from files."""

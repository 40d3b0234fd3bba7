"""Measure how fast a file is on this machine, compared with the machine's limits and with other formats.

`run.bench` measures and returns data; nothing here prints.
"""

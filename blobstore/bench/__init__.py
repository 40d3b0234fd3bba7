"""How fast a file is on this machine, beside what the machine itself can do and beside other formats.

`run.bench` measures and returns data; nothing here prints.
"""

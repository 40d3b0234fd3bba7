"""The project's own benchmarks: ``python -m benchmarks``; README.md beside this says what and how.

`measurement` measures cases that are declared as data; a group (`many`, `large`, …) declares some, with the files they
need; `report` and `charts` tell what came out. `blobstore.bench` has what measures a format, and the formats themselves.
"""

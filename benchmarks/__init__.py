"""The project's own benchmarks: ``python -m benchmarks``; README.md beside this says what and how.

`measurement` measures cases that are declared as data. A group (`many`, `large`, …) declares some, with the files
they need. `report` and `charts` show the results. `blobstore.bench` has the formats, and measures one file.
"""

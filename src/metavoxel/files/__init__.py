"""Files: one reader a kind of file, writers that never half-write, and what in a folder is ours.

A reader is imported by its own name (`metavoxel.files.json`), so that a command loads the libraries
of the files that it reads and no others.
"""

"""`python -m metavoxel` is the command `metavoxel`."""

from metavoxel.cli import main

main()

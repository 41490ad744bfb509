"""The whole story on a simulated cohort: simulate, train, ask, and a page that shows it."""

from metavoxel.demo.story import run_demo

__all__ = ["run_demo"]

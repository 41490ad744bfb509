"""Figures of data, models and answers, in one style. Every function returns a matplotlib figure."""

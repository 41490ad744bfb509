"""Many systems, trained alike on the same folds and asked the same questions."""

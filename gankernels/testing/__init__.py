"""Witnesses for tests: a naive float64 oracle, derived error bounds, gradient checks."""

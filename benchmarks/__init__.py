"""Measurements: each module prints, as its last line, one JSON object."""

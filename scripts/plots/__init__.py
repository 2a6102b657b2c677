"""Figures: each module has a function ``draw`` from tables to a matplotlib figure, without files."""

"""Figures: each module draws tables as a matplotlib figure and touches no file."""

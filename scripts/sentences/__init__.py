"""Sentences and comparisons made from tables; no module in here touches a file."""

"""Results: the rows of a table, significance tests, claims, and comparisons with published and with other numbers."""

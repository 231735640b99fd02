"""Measurements of the losses themselves: table 1 and the scaling experiment."""

"""Graphs and independent sets over visual tokens: pure tensors."""

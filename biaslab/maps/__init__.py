"""Attention of visual tokens over many images."""

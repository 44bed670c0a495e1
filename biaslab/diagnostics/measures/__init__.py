"""Measures of positional bias in attention maps, one file each; every file here registers itself."""

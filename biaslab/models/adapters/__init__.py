"""One file per model family; every module here registers itself."""

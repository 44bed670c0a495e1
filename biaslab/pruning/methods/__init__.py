"""One file per pruning method; every module here registers itself."""

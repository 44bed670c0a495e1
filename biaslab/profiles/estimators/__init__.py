"""One file per estimator; every module here registers itself."""

"""Statistics on arrays: jackknife, resampling, multiple testing, spatial nulls."""

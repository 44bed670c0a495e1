"""Statistics on arrays: jackknife, resampling, multiple testing, spatial nulls, and what an interval allows to say."""

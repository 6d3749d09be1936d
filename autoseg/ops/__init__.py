"""Pure functions on arrays: crop, normalise, resample, tile, measure distances."""

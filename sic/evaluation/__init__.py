"""What is measured: rate and distortion (`rate_distortion`, `metrics`), Bjøntegaard deltas (`bd`),
and what a detector finds (`detection`, `detectors`, `accuracy`)."""

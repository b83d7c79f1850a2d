"""What is measured: one picture through one codec (`pieces`, `coders`) and its measures
(`metrics`), the table of rate and distortion (`rate_distortion`), Bjøntegaard deltas (`bd`), and
what a detector finds (`detection`, `detectors`, `accuracy`)."""

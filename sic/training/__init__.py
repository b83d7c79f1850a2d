"""Training: the loop that all codecs share (`loop`), a run with its state and checkpoints (`run`),
and the codecs that the study trains and ships (`jobs`)."""

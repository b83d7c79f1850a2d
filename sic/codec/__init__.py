"""The paper's codecs: TCM, feature fusion (4)–(8), the difference codec, the losses (1)–(3), and
their weights on disk.  Nothing here knows params.yaml, pictures on disk or training."""

"""The scalable bitstream: bytes (`container`), range coding (`entropy`), latents to symbols
(`latent`), the codec of both layers (`scalable.ScalableCodec`), and folders (`files`)."""

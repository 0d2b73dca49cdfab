"""Training of the embedded model: autoencoder, text encoders, transformer, latent upsampler, export."""

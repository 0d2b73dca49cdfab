"""Training of the embedded model: autoencoder, text encoders, transformer, latent upsampler, export."""

RATIOS = (1.25, 1.5, 2.0, 3.0, 4.0)  # of sizes, that eval-upsampler measures at

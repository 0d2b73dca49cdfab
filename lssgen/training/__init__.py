"""Training: of latent upsamplers for any VAE (the commands train-upsampler and eval-upsampler, whose options are in
`upsampler_commands`), and of the embedded model, whose parts each have a script with a docstring of its own:
`autoencoder`, `text_encoders`, `transformer`, `upsampler`, `export`."""

RATIOS = (1.25, 1.5, 2.0, 3.0, 4.0)  # of sizes, that eval-upsampler measures at

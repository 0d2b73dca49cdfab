"""LSSGen Studio: staged text-to-image generation in latent space (arXiv 2507.16154), beside an honest baseline."""

__version__ = "0.1.0"

"""LSSGen Studio: staged text-to-image generation in latent space (arXiv 2507.16154), beside an honest baseline."""

import logging

__version__ = "0.1.0"

# bitsandbytes, which diffusers imports where it is installed, warns about an optional kernel that nothing here uses
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

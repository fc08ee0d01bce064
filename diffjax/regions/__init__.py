"""Stage `regions`: from feature maps to one vector per region, whitened."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

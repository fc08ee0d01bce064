"""Command line of diffjax; each command imports what it needs when it is named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

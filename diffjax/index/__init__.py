"""Index of vectors or of a folder of pictures: build, search, compare methods."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

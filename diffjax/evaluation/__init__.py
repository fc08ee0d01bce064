"""Stage `evaluation`: precision of rankings, intervals and tests over queries."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

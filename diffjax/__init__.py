"""Image retrieval by diffusion on the graph of picture regions.

Names are resolved on first use, here and in every stage: importing the package costs
next to nothing, and a program that needs one function imports what that needs. The stub
beside each `__init__.py` lists its names, for type checkers and for Python alike.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

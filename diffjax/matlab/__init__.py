"""MATLAB's files as plain Python and NumPy values."""

from ._read import is_matlab as is_matlab
from ._read import read_matlab as read_matlab
from ._values import Unreadable as Unreadable

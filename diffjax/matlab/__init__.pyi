from ._layout import kind_text as kind_text
from ._layout import other_layout as other_layout
from ._layout import shape_text as shape_text
from ._read import is_matlab as is_matlab
from ._read import read_matlab as read_matlab
from ._values import Unreadable as Unreadable

from ._read import is_matlab as is_matlab
from ._read import read_matlab as read_matlab
from ._values import OpaqueValue as OpaqueValue
from ._values import describe_value as describe_value
from ._values import format_shape as format_shape
from ._values import missing_variable_error as missing_variable_error

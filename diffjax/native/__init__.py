"""Stage `native`: compiled kernels for processors, where they could be built."""

from ._calls import CGCall as CGCall
from ._calls import LocalCall as LocalCall
from ._calls import csr_cg as csr_cg
from ._calls import csr_local as csr_local
from ._calls import csr_product as csr_product
from ._calls import has_kernel as has_kernel
from ._library import Library as Library
from ._library import find_library as find_library
from ._lists import has_list_kernel as has_list_kernel
from ._lists import list_rows as list_rows
from ._lists import mutual_slots as mutual_slots

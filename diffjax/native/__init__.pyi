from ._calls import CGCall as CGCall
from ._calls import LocalCall as LocalCall
from ._calls import csr_cg as csr_cg
from ._calls import csr_local as csr_local
from ._calls import csr_product as csr_product
from ._calls import has_kernel as has_kernel
from ._library import Library as Library
from ._library import find_library as find_library

"""The type checker that jaxtyping's hook applies to every call into the library."""

import beartype

# An int where a float is asked for is fine, as PEP 484 says and pyright checks.
check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))

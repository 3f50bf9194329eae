"""How XLA compiles tests: hundreds of tiny programs, each for a few calls.

Optimizing their machine code would take a quarter of the time of the suite on JAX, and the newer
emitters of fusions a fifth. The proofs that compare numbers run on the code that users' runs do.
"""

import os

QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def quick_flags() -> str:
    """The value of `XLA_FLAGS` to compile quickly: what it is already, and QUICK."""
    flags = os.environ.get("XLA_FLAGS", "")
    return flags if QUICK in flags else f"{flags} {QUICK}".strip()

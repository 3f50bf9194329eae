"""How XLA compiles tests: hundreds of tiny programs, each for a few calls.

Optimizing their machine code would take a quarter of the time of the suite on JAX, and the newer
emitters of fusions a third. The proofs that compare numbers run on the code that users' runs do.
"""

import os

QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def compile_quickly() -> None:
    """For this process, before its first computation, and for those that it starts."""
    flags = os.environ.get("XLA_FLAGS", "")
    if QUICK not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {QUICK}".strip()

"""The parts of ``python -m benchmarks.gpu``: one file each, a function ``run(plan, findings)``."""

"""The one door to the CEL engine: compile an expression, evaluate it within a budget, get a value or a `Fault`.

Evaluation happens in this process: the engine keeps nothing of a call as long as no function is written in Python
(docs/decisions/0023-cel-in-process.md).
"""

from ugallu.cel.engine import Environment, Fault, Json, Program, Scope

__all__ = ["Environment", "Fault", "Json", "Program", "Scope"]

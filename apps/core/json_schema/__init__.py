"""JSON schemas as functions: compiled once, then cheap to ask, and bounded whoever wrote them.

A schema comes from a server that nobody here knows. So a checker is made only where its cost can be bounded: what a
schema may demand at one place of a value is weighed before, patterns run in an engine without backtracking, nothing is
fetched, and a check that takes too many steps ends. Annotations, `format` among them, demand nothing.
"""

from apps.core.json_schema.bounds import MOST_STEPS, Exhausted, Fault, NotEnforced, Steps
from apps.core.json_schema.compiling import Checker

__all__ = ["MOST_STEPS", "Checker", "Exhausted", "Fault", "NotEnforced", "Steps"]

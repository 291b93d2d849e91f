"""The whole flow: corpus -> proxies -> score -> rank -> select -> order -> train -> report.

Every stage has a fingerprint of what determines its output: the content it reads, its section of the spec, and the
version of its code. A stage whose output already stands under that fingerprint is not run again.
"""

from raydelt.pipeline.aside import ask, measure_values, plan, probe
from raydelt.pipeline.flow import STAGES, execute
from raydelt.pipeline.run import Run

__all__ = ["STAGES", "Run", "ask", "execute", "measure_values", "plan", "probe"]

"""The doctor: what is wrong with a data set, record by record, with a mend for each fault, and a mended copy.

from zhixing.data.doctor import examine, write_mended
diagnosis = examine(["train.jsonl"])
print(diagnosis.findings.counts)
write_mended(diagnosis, "mended/")
"""

from zhixing.data.doctor.examine import Diagnosis, Options, examine
from zhixing.data.doctor.findings import KINDS, Finding, Findings
from zhixing.data.doctor.mended import write_mended

__all__ = ["KINDS", "Diagnosis", "Finding", "Findings", "Options", "examine", "write_mended"]

"""Tasks on files: rows read in order with their faults, results written beside them, work that survives a kill."""

from zhixing.tasks.files.run import FileRun, run_file

__all__ = ["FileRun", "run_file"]

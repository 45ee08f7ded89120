from .record import TrialRecord as TrialRecord
from .report import write_report as write_report
from .result import StudyResult as StudyResult
from .result import open_result as open_result
from .run import run_study as run_study
from .space import Space as Space
from .space import load_space as load_space

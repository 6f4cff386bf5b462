"""Tasks: what a run is trained on."""

from captioner.training.tasks.answer_maps import AnswerMapsTask
from captioner.training.tasks.answers import AnswerTask
from captioner.training.tasks.base import TASKS, Batches, Forward, Part, Task, TaskContext
from captioner.training.tasks.cross_entropy import CrossEntropy
from captioner.training.tasks.grid_distillation import GridDistillation
from captioner.training.tasks.language_model import LanguageModel
from captioner.training.tasks.maps import MapsTask
from captioner.training.tasks.self_critical import SelfCritical

__all__ = [
    "TASKS",
    "AnswerMapsTask",
    "AnswerTask",
    "Batches",
    "CrossEntropy",
    "Forward",
    "GridDistillation",
    "LanguageModel",
    "MapsTask",
    "Part",
    "SelfCritical",
    "Task",
    "TaskContext",
]

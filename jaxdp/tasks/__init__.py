"""Tasks by name: importing this package registers the built-in ones."""

from jaxdp.tasks.causal_lm import CausalLM
from jaxdp.tasks.task import LossSums, Task, TaskInputs, register_task, registered_tasks

register_task("causal_lm", CausalLM)

__all__ = ["CausalLM", "LossSums", "Task", "TaskInputs", "register_task", "registered_tasks"]

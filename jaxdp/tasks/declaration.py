"""Checks of a task's declaration: attributes, and the methods that these need, before any data is read."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp.arguments import shown
from jaxdp.data.sequences.make import PACKINGS
from jaxdp.errors import UserError
from jaxdp.metrics import LOSS, MetricSpec
from jaxdp.model.choices import CHOICES, HEADS, POOLINGS
from jaxdp.nearest import closest
from jaxdp.run_config import DataConfig
from jaxdp.signatures import check_overrides, defined_in

FIELDS = tuple(
    field.name.removesuffix("_column") for field in dataclasses.fields(DataConfig) if field.name.endswith("_column")
)
"""Fields of a record that `data.*_column` names the column of."""

_NAMES: dict[str, Sequence[str]] = {
    "fields": FIELDS,
    "eos_fields": (),
    "packings": PACKINGS,
    "special_tokens": (),
    "architectures": CHOICES["architecture"],
    "eval_outputs": (),
    "predict_fields": FIELDS,
    "prediction_names": (),
    "protected_strings": (),
}
"""Attributes that are tuples of strings, and the strings that they may have; (): any."""

_NOT_EMPTY = ("fields", "packings", "architectures")

_METRICS = ("metrics", "summary_metrics", "score_metrics")

_KINDS: dict[str, tuple[type, str]] = {
    "prepare_format": (int, "a whole number"),
    "prepared_with": (Mapping, "a dict of plain JSON values"),
    "row_lengths": (Mapping, 'a dict of lengths in tokens, such as {"tokens": inputs.length}'),
    "model_options": (Mapping, 'a dict, such as {"head": "language_model"}'),
    "prompt_end": (str, "a string"),
    "can_augment": (bool, "True or False"),
    "uses_labels": (bool, "True or False"),
    "generated_field": (str, "a string"),
}
"""Attributes with another type, and this type in words."""

_END_BEFORE_TEXT = ("always", "between", "never")

_MODEL_OPTIONS: dict[str, Sequence[str]] = {
    "head": tuple(HEADS),
    "num_labels": (),
    "pooling": POOLINGS,
    "target_vocab_size": (),
    "max_target_length": (),
}
"""Keys of `model_options`, and the values that each may have; (): whole numbers of at least 1."""

_METHODS = {
    "": ("prepare", "make_batch", "batch_spec", "loss"),
    "eval_outputs": ("outputs", "summarize"),
    "score_metrics": ("score",),
    "predict_fields": ("prepare_for_predict", "make_predict_batch"),
}
"""Methods that a task must define if the attribute is not empty; "": in any case."""


def check_task_class(name: str, kind: type, base: type) -> None:
    """Checks what a class declares for all of its tasks, when it is registered.

    Args:
        name: Name of the registration.
        kind: The class.
        base: `jaxdp.Task`.

    Raises:
        UserError: A method does not take its arguments, or an attribute has a wrong value.
    """
    what = f"task {name!r}{defined_in(kind)}"
    _check_base(what, kind, base)
    check_overrides(f"task {name!r}", kind, base, _arguments(base))
    for attribute in (*_NAMES, *_METRICS, *_KINDS):
        value = inspect.getattr_static(kind, attribute, None)
        if value is not None and not hasattr(value, "__get__"):  # no property, which only an instance has a value of
            _check_value(what, attribute, value)


def check_task(name: str, task: Any, base: type, *, has_labels: bool) -> None:
    """Checks what a task declares, when it is made.

    Args:
        name: Value of `config.task`.
        task: The task.
        base: `jaxdp.Task`.
        has_labels: Whether it was made with the labels of the data; before that, a task that uses them has no
            `model_options`.

    Raises:
        UserError: An attribute or method is missing or wrong.
    """
    what = f"task {name!r}{defined_in(type(task))}"
    _check_base(what, type(task), base)
    check_overrides(f"task {name!r}", task, base, _arguments(base))
    for attribute in (*_NAMES, *_METRICS, *_KINDS):
        if attribute == "model_options" and task.uses_labels and not has_labels:
            continue
        if not hasattr(task, attribute):
            raise UserError(f"{what} does not declare {attribute}{_instead(task, attribute)}: {_expected(attribute)}.")
        _check_value(what, attribute, getattr(task, attribute))
    _check_methods(what, task, base)
    for field in task.eos_fields:
        if field not in task.row_lengths:
            raise UserError(
                f"{what}: eos_fields has {field!r}, which row_lengths has no length for; it has "
                f"{', '.join(map(repr, task.row_lengths)) or 'none'}{_nearest(field, task.row_lengths)}."
            )


def _check_base(what: str, kind: type, base: type) -> None:
    if base not in kind.__mro__:
        raise UserError(
            f"{what} must make a jaxdp.Task, found {kind.__qualname__}, which does not inherit from it: write "
            f"class {kind.__name__}(jaxdp.Task)."
        )


def _check_methods(what: str, task: Any, base: type) -> None:
    """Raises UserError for a method that the declaration needs and the class does not define."""
    needed = [(attribute, method) for attribute, methods in _METHODS.items() for method in methods]
    if not task.generated_field:
        needed += [("predict_fields", "outputs"), ("predict_fields", "predictions")]
    for attribute, method in needed:
        if (not attribute or getattr(task, attribute)) and getattr(type(task), method) is getattr(base, method):
            why = f", which {attribute} needs" if attribute else ""
            raise UserError(
                f"{what} does not define {method}{why}{_instead(task, method)}: add "
                f"def {method}(self, {', '.join(_arguments(base)[method])})."
            )


def _check_value(what: str, attribute: str, value: Any) -> None:
    """Raises UserError for an attribute of a wrong type or with an unknown string or key."""
    if attribute in _NAMES:
        _check_names(what, attribute, value)
    elif attribute in _METRICS:
        _check_metrics(what, attribute, value)
    else:
        kind, expected = _KINDS[attribute]
        if not isinstance(value, kind):
            raise UserError(f"{what}: {attribute} must be {expected}, found {shown(value)}.")
    if attribute == "row_lengths":
        _check_lengths(what, value)
    if attribute == "model_options":
        _check_options(what, value)


def _check_names(what: str, attribute: str, value: Any) -> None:
    if not isinstance(value, tuple | list) or not all(isinstance(each, str) for each in value):
        comma = f": with one string write ({value!r},)" if isinstance(value, str) else ""
        raise UserError(f"{what}: {attribute} must be a tuple of strings, found {shown(value)}{comma}.")
    known = _NAMES[attribute]
    if attribute in _NOT_EMPTY and not value:
        raise UserError(f"{what}: {attribute} is empty; {_expected(attribute)}.")
    for each in value:
        if known and each not in known:
            raise UserError(f"{what}: {attribute} has {each!r}; {_expected(attribute)}{_nearest(each, known)}.")


def _check_metrics(what: str, attribute: str, value: Any) -> None:
    if isinstance(value, MetricSpec):
        raise UserError(
            f"{what}: {attribute} must be a tuple of jaxdp.tasks.MetricSpec, found one MetricSpec: write a comma after "
            f"it, {attribute} = (MetricSpec({value.name!r}, ...),)."
        )
    if not isinstance(value, tuple | list):
        raise UserError(f"{what}: {attribute} must be a tuple of jaxdp.tasks.MetricSpec, found {shown(value)}.")
    for spec in value:
        if not isinstance(spec, MetricSpec) or spec.group != LOSS.group:
            raise UserError(
                f"{what} declares the metric {spec!r}; expected a jaxdp.tasks.MetricSpec of the group "
                f"{LOSS.group!r}, such as MetricSpec('accuracy', higher_is_better=True)."
            )


def _check_lengths(what: str, lengths: Mapping[str, Any]) -> None:
    if "tokens" not in lengths:
        found = f"it has {', '.join(map(repr, lengths))}" if lengths else "it is empty"
        raise UserError(
            f"{what}: row_lengths must have the length of 'tokens', {found}{_nearest('tokens', lengths)}: write "
            'row_lengths = {"tokens": inputs.length}.'
        )
    for name, length in lengths.items():
        if not isinstance(length, int) or isinstance(length, bool):
            raise UserError(f"{what}: row_lengths[{name!r}] must be a number of tokens, found {shown(length)}.")


def _check_options(what: str, options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if key not in _MODEL_OPTIONS:
            raise UserError(
                f"{what}: model_options has {key!r}; its keys are {', '.join(_MODEL_OPTIONS)}"
                f"{_nearest(str(key), _MODEL_OPTIONS)}."
            )
        choices = _MODEL_OPTIONS[key]
        if choices and value not in choices:
            raise UserError(
                f"{what}: model_options[{key!r}] must be one of {', '.join(choices)}, found {shown(value)}"
                f"{_nearest(str(value), choices)}."
            )
        if not choices and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise UserError(f"{what}: model_options[{key!r}] must be a number of at least 1, found {shown(value)}.")
    is_classifier = options.get("head") == "classification"
    if is_classifier != ("num_labels" in options):
        fix = 'add "num_labels": the number of classes' if is_classifier else 'set "head": "classification"'
        raise UserError(
            f"{what}: model_options has {'no' if is_classifier else 'a'} 'num_labels' with the head "
            f"{options.get('head', 'language_model')}: {fix}."
        )


def _expected(attribute: str) -> str:
    """Returns what an attribute must be, as a clause."""
    if attribute in _KINDS:
        return f"it must be {_KINDS[attribute][1]}"
    known = _NAMES[attribute]
    return f"expected some of {', '.join(known)}" if known else "expected a tuple of strings"


def _instead(task: Any, name: str) -> str:
    """Returns the similar name that a task has in place of the missing one, as a clause."""
    match = closest(name, (own for own in dir(task) if not own.startswith("_") and own not in _ALL))
    return f", but has {match}" if match else ""


def _nearest(name: str, known: Any) -> str:
    match = closest(name, known)
    return f"; did you mean {match!r}?" if match and match != name else ""


def _arguments(base: type) -> dict[str, tuple[str, ...]]:
    """Returns the names of the arguments of every method of the interface."""
    return {
        name: tuple(inspect.signature(method).parameters)[1:]
        for name, method in vars(base).items()
        if inspect.isfunction(method) and not name.startswith("_")
    }


_ALL = {*_NAMES, *_METRICS, *_KINDS, *(method for methods in _METHODS.values() for method in methods)}

"""The exceptions of the package; `onnxslim1x1.cli.main` maps them to exit codes.

A message reads ``where: what is wrong (why); what to do``, on one line.
A *decline* (a layer that cannot be rewritten) is no exception but an `onnxslim1x1.spec.Ineligible` value,
and a *failed gate* is a value in the validation report.
"""


class SlimError(Exception):
    """Base of every error that the package raises on purpose."""


class ModelError(SlimError):
    """A model file cannot be used: missing, unreadable, invalid, unsupported or inconsistent."""


class UnknownLayerError(SlimError):
    """A layer name or pattern matches no convolution or dense layer of the model."""


class RankError(SlimError, ValueError):
    """A rank lies outside of what a layer allows."""


class OptionError(SlimError, ValueError):
    """An option has a value that makes no sense, or two options contradict each other."""


class InfeasibleBudget(SlimError):
    """No choice of layers and ranks meets the budget that was asked for."""


class PlanMismatchError(SlimError):
    """A plan cannot be read or carried out: damaged, of a newer version, or made for another model or other data."""


class BaselineError(SlimError):
    """A baseline cannot be read, or was recorded for other models or other data."""


class DataError(SlimError):
    """Images, arrays or labels cannot be used, or do not fit the model."""


class OutputError(SlimError):
    """A result cannot be written where it was asked for."""


class RuntimeFailure(SlimError):
    """onnxruntime could not load or run a model."""

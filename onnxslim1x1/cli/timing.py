"""Options of `validate` about what is timed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from onnxslim1x1.cli.options import AnyRunFlags, Progress
from onnxslim1x1.cli.parsing import parse_numbers

if TYPE_CHECKING:
    from onnxslim1x1.runtime.options import RunOptions
    from onnxslim1x1.runtime.validate import ValidationSettings

_MOST_ROUNDS = 5000  # a small model is timed for as long as --time says, not for the tenth of a second that is enough


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedRunFlags(AnyRunFlags):
    """How models are run, and with which threads and batch sizes they are timed."""

    threads: Annotated[str, typer.Option(
        help="Threads within an operator, such as 1 or 1,2; 0: as many as onnxruntime chooses.", metavar="N,...")] = "0"
    batch: Annotated[str | None, typer.Option(
        help="Batch sizes to time, such as 1,8 (default: 1, or what the model takes); --time counts for each, with "
             "each number of threads.", metavar="N,...")] = None

    @property
    def first_threads(self) -> int:
        """Threads of everything but the other latencies.

        Raises:
            OptionError: the text is malformed.
        """
        return self._numbers()[0]

    def options(self, progress: Progress | None) -> RunOptions:
        """As a value of the API.

        Raises:
            OptionError: a text is malformed, or two options contradict each other.
        """
        return self.with_threads(self.first_threads, progress)

    def timed(self, settings: ValidationSettings) -> ValidationSettings:
        """Settings of a validation in full: all threads and batch sizes, memory too.

        Raises:
            OptionError: a text is malformed, or a number makes no sense.
        """
        from onnxslim1x1.runtime.timing import Wanted

        batches = () if self.batch is None else parse_numbers("--batch", self.batch)
        return replace(settings, measure_footprint=True, timed=Wanted(threads=self._numbers(), batches=batches),
                       benchmark=replace(settings.benchmark, max_rounds=_MOST_ROUNDS))

    def _numbers(self) -> tuple[int, ...]:
        return parse_numbers("--threads", self.threads)

"""What a user can get wrong, as types.

Every error here carries one sentence that says what is wrong, where, and how to mend it. The
command line prints that sentence and nothing else: a traceback is for our bugs, not for bad input.
"""


class SynthPipelineError(Exception):
    """Base of every error that the command line turns into one sentence."""


class InputError(SynthPipelineError):
    """The user's input is wrong (exit code 2): a path, a photo, a configuration value."""


class StageError(SynthPipelineError):
    """A stage failed on good input (exit code 1, or 3 when the other classes went on)."""


class PassingError(StageError):
    """A disk, a network or the memory failed now; the same command may work later."""


class DiskError(StageError):
    """The disk has no room or does not answer; the same command goes on when it has."""


class StoreUnreachableError(PassingError):
    """A store on another machine does not answer now; the same command may work later."""


class ClassFailedError(InputError):
    """One class cannot be made (no readable image, no face): listed, while the others go on."""

    def __init__(self, class_id: str, message: str) -> None:
        super().__init__(message)
        self.class_id = class_id

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        # Exceptions with two arguments do not survive pickling between processes by default.
        return type(self), (self.class_id, str(self))

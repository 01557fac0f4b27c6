"""Every error a user can meet. A message says what failed, with the numbers, and what to do; one sentence or two."""


class LabkitError(Exception):
    """Base of all errors that labkit raises on purpose; the command line prints it as one line."""


class CheckpointError(LabkitError):
    """A checkpoint is missing, damaged, unsafe, contradictory or not understood."""


class TokenizerError(LabkitError):
    """Text that cannot be encoded, ids that cannot be decoded, or a tokenizer that does not fit the model."""


class SamplingError(LabkitError):
    """A sampling setting outside its range, or logits that cannot be sampled from."""


class ContextError(LabkitError):
    """More tokens than the model's context holds, or none at all."""


class ConfigError(LabkitError):
    """A settings file, option or parameter that is unknown or of the wrong kind."""


class TraceError(LabkitError):
    """A recorded run that is missing, damaged, or of a version after this labkit."""

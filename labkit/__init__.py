"""labkit: see and steer how a small language model chooses its next token.

import labkit
lm = labkit.load("shakespeare-char")
print(labkit.generate(lm, "To be", seed=1, max_new_tokens=60).text)
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module it comes from; imported when first used, so that `import labkit` costs next to nothing.
_PUBLIC = {
    "load": "language_model",
    "shipped": "language_model",
    "wrap": "language_model",
    "LanguageModel": "language_model",
    "generate": "generation",
    "stream": "generation",
    "generate_batch": "generation",
    "stream_batch": "generation",
    "branch": "generation",
    "score": "generation",
    "beam_search": "generation",
    "BranchTree": "generation",
    "Generation": "generation",
    "Score": "generation",
    "Step": "generation",
    "record": "trace",
    "load_trace": "trace",
    "Trace": "trace",
    "Settings": "settings",
    "Sampler": "sampling",
    "SamplingTrace": "sampling",
    "capture": "inspection",
    "edit": "inspection",
    "sites": "inspection",
    "results": "sweep.results",
    "write_results": "sweep.results",
    "LabkitError": "errors",
    "CheckpointError": "errors",
    "TokenizerError": "errors",
    "SamplingError": "errors",
    "ContextError": "errors",
    "ConfigError": "errors",
    "TraceError": "errors",
    "benchmark": None,
    "chat": None,
    "inspection": None,
    "views": None,
    "widgets": None,
}

if TYPE_CHECKING:
    from . import benchmark as benchmark
    from . import chat as chat
    from . import inspection as inspection
    from . import views as views
    from . import widgets as widgets
    from .errors import CheckpointError as CheckpointError
    from .errors import ConfigError as ConfigError
    from .errors import ContextError as ContextError
    from .errors import LabkitError as LabkitError
    from .errors import SamplingError as SamplingError
    from .errors import TokenizerError as TokenizerError
    from .errors import TraceError as TraceError
    from .generation import BranchTree as BranchTree
    from .generation import Generation as Generation
    from .generation import Score as Score
    from .generation import Step as Step
    from .generation import beam_search as beam_search
    from .generation import branch as branch
    from .generation import generate as generate
    from .generation import generate_batch as generate_batch
    from .generation import score as score
    from .generation import stream as stream
    from .generation import stream_batch as stream_batch
    from .inspection import capture as capture
    from .inspection import edit as edit
    from .inspection import sites as sites
    from .language_model import LanguageModel as LanguageModel
    from .language_model import load as load
    from .language_model import shipped as shipped
    from .language_model import wrap as wrap
    from .sampling import Sampler as Sampler
    from .sampling import SamplingTrace as SamplingTrace
    from .settings import Settings as Settings
    from .sweep.results import results as results
    from .sweep.results import write_results as write_results
    from .trace import Trace as Trace
    from .trace import load_trace as load_trace
    from .trace import record as record


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'labkit' has no attribute {name!r}")
    module = _PUBLIC[name]
    value = importlib.import_module(f".{module or name}", __name__)
    if module is not None:
        value = getattr(value, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_PUBLIC, "__version__"])

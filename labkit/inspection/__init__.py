"""What happens inside: read and edit activations, attention, the lens, the cache, and two models side by side."""

from .ablation import Ablation, ablate
from .attention import AttentionMaps, attention, properties, repeated
from .attribution import Attribution, attribute
from .cache import Audit, CacheReport, audit_cache, cache_growth
from .cache_history import cache_report
from .compare import Comparison, Trajectory, compare, trajectory
from .effects import Effect, effect
from .evaluate import Answers, TextLoss, evaluate_answers, evaluate_text, read_questions
from .fitted_lens import LensFit, fit_lens
from .free_running import Divergence, FreeRunning
from .hooks import Activations, At, capture, edit
from .lens import LogitLens, logit_lens
from .patching import PatchResult, patch
from .progress import Progress, Stopped
from .site_names import Site, sites
from .steering import SteeringEffect, SteeringVector, steer, steering_effect, steering_vector
from .teacher_forced import TeacherForced

__all__ = [
    "Ablation", "Activations", "Answers", "At", "AttentionMaps", "Attribution", "Audit", "CacheReport",
    "Comparison", "Divergence", "Effect", "FreeRunning", "LensFit", "LogitLens", "PatchResult", "Progress", "Site",
    "SteeringEffect", "SteeringVector", "Stopped", "TeacherForced", "TextLoss", "Trajectory", "ablate", "attention",
    "attribute", "audit_cache", "cache_growth", "cache_report", "capture", "compare", "edit", "effect",
    "evaluate_answers", "evaluate_text", "fit_lens", "logit_lens", "patch", "properties", "read_questions",
    "repeated", "sites", "steer", "steering_effect", "steering_vector", "trajectory",
]  # fmt: skip

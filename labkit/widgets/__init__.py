"""Widgets: controls, one labkit call, one view. What they show can be had as plain data from their ``.result``."""

from . import facts
from .ablation_view import AblationView
from .attention_browser import AttentionBrowser
from .board_result import BoardResult
from .cache_map import CacheMap, CacheMapResult
from .chat import Chat
from .chat_result import ChatResult
from .duel import CheckpointDuel, DuelResult
from .generation import GenerationPlayground
from .lens_browser import LogitLensBrowser
from .microscope import MicroscopeResult, SamplingMicroscope
from .recording import PlaygroundResult
from .sample_board import SampleBoard
from .tokenizer_explorer import ExplorerResult, TokenizerExplorer
from .workbench import Workbench

__all__ = [
    "AblationView",
    "AttentionBrowser",
    "BoardResult",
    "CacheMap",
    "CacheMapResult",
    "Chat",
    "ChatResult",
    "CheckpointDuel",
    "DuelResult",
    "ExplorerResult",
    "GenerationPlayground",
    "LogitLensBrowser",
    "MicroscopeResult",
    "PlaygroundResult",
    "SampleBoard",
    "SamplingMicroscope",
    "TokenizerExplorer",
    "Workbench",
    "facts",
]

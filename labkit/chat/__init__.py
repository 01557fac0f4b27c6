"""Chat: turns -> ids. Templates are data, and what people type never becomes a special token."""

from .conversation import Conversation, Turn
from .prompt import Prompt, encode, parts, prompt, rows, system_text
from .reply import Reply, begin, reply, with_later_seed
from .templates import TEMPLATES, Template, named, template_of

__all__ = [
    "TEMPLATES",
    "Conversation",
    "Prompt",
    "Reply",
    "Template",
    "Turn",
    "begin",
    "encode",
    "named",
    "parts",
    "prompt",
    "reply",
    "rows",
    "system_text",
    "template_of",
    "with_later_seed",
]

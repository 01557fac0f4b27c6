"""``python -m labkit``"""

from .cli import main

main()

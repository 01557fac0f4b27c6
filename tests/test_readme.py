"""The README's Python session is run as it stands."""

from pathlib import Path

from sybil import Sybil
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_readmes_session_gives_what_it_says():
    parser = PythonCodeBlockParser()
    document = Sybil(parsers=[parser]).parse(README)
    assert isinstance(document, Document)
    examples = list(document.examples())
    assert examples, "no Python in the README"
    for example in examples:
        example.evaluate()

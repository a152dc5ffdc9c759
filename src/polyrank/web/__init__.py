"""The web pages: plain HTML, CSS and JavaScript modules, served as they are.

They use the public HTTP API only; ``gateway/pages.py`` serves them.
"""

from pathlib import Path

FOLDER = Path(__file__).parent

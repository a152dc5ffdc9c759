"""pip's configuration files: where this machine gets its packages from."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path

# Later sections and files win, as they do with pip.
SECTIONS = ("global", "install")


def read(home: Path, extra: Path | None = None) -> dict[str, str]:
    """The options of all files, ``index-url`` as ``index_url``; broken files are passed over.

    ``home`` is the folder of the user's own configuration, ``extra`` the file that
    ``PIP_CONFIG_FILE`` names.
    """
    places = [
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
        Path.home() / ".pip" / "pip.conf",
        home / "pip" / "pip.conf",
        Path(sys.prefix) / "pip.conf",
    ]
    found: dict[str, str] = {}
    for place in [*places, *([] if extra is None else [extra])]:
        parser = configparser.RawConfigParser()
        try:
            parser.read(place, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
        for section in SECTIONS:
            if parser.has_section(section):
                found |= {name.replace("-", "_"): text for name, text in parser.items(section)}
    return found

"""A server that speaks TLS, and commands that trust the authority which it has made."""

import signal
from pathlib import Path

from .conftest import Installation


def test_commands_trust_the_authority_that_the_environment_names(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "data", "--tls")
    try:
        key = installation.program.wait_for(r"shown this once: (\S+)")[1]
        untrusting = installation.run("apps", "list")
        assert untrusting.returncode != 0 and "certificate verify failed" in untrusting.stderr
        installation.environment |= {
            "SSL_CERT_FILE": str(tmp_path / "data" / "tls" / "ca.pem"),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
        }
        logged_in = installation.run("auth", "login", "--server", installation.url, stdin=key)
        assert logged_in.returncode == 0, logged_in.stderr
        installation.environment["HTTPS_PROXY"] = "http://127.0.0.1:9"  # not before this machine
        assert installation.json("apps", "list") == []
    finally:
        installation.program.end(signal.SIGINT)

"""The certificate authority of a process."""

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509

from polyrank.certificates import Authority


def shake_hands(certificate: bytes, trusted: Authority, name: str, folder: Path) -> str:
    """The outcome of a client's handshake with a server that has the certificate."""
    file = folder / "server.pem"
    file.write_bytes(certificate)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(file)
    asking = ssl.create_default_context(cadata=trusted.pem.decode())
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            serving.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with asking.wrap_socket(ours, server_hostname=name) as connection:
            return str(connection.version())
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("name", ["fal.run", "queue.fal.run", "127.0.0.1", "::1"])
def test_what_it_signs_is_trusted_for_the_names_in_it(name: str, tmp_path: Path) -> None:
    authority = Authority.create("test")
    certificate = authority.issue("fal.run", "queue.fal.run", "127.0.0.1", "::1")
    assert shake_hands(certificate, authority, name, tmp_path) == "TLSv1.3"


def test_other_names_and_other_authorities_are_not(tmp_path: Path) -> None:
    authority, other = Authority.create("test"), Authority.create("test")
    certificate = authority.issue("fal.run")
    assert "Hostname mismatch" in shake_hands(certificate, authority, "example.com", tmp_path)
    assert "issuer certificate" in shake_hands(certificate, other, "fal.run", tmp_path)


def test_what_it_signs_may_not_sign_and_its_key_stays_with_it() -> None:
    authority = Authority.create("test")
    signed = x509.load_pem_x509_certificate(authority.issue("fal.run"))
    assert not signed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert signed.public_key() != authority.certificate.public_key()
    assert b"PRIVATE" not in authority.pem

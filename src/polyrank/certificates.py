"""A certificate authority of our own: it vouches for names that lead to this machine."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = datetime.timedelta(days=397)
# A kept authority that is valid for less than this is made anew.
VALID_STILL = datetime.timedelta(days=30)
# Clocks differ.
EARLIER = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """Signs certificates. One that is not kept has its key in memory only: nobody can sign with it
    later."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, name: str) -> Self:
        """A new authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = (
            _builder(subject, subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def kept_in(cls, folder: Path, name: str) -> Self:
        """The authority that a folder keeps, made if there is none: who trusts it once trusts what
        it signs later. Its key is readable by its owner only."""
        certificate_file, key_file = folder / "ca.pem", folder / "ca.key"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not certificate_file.exists():
            made = cls.create(name)
            _write(key_file, _private_pem(made.key))
            _write(certificate_file, made.pem)  # last: what is there is whole
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        if certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC) + VALID_STILL:
            certificate_file.unlink()
            return cls.kept_in(folder, name)
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey), f"{key_file} is not ours"
        return cls(certificate, key)

    @property
    def pem(self) -> bytes:
        """What clients are given to trust."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *hosts: str) -> bytes:
        """A certificate for these host names and addresses, after its key, as one PEM text."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
        mine = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            _builder(subject, self.certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(map(_general_name, hosts)), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(mine), False
            )
            .sign(self.key, hashes.SHA256())
        )
        return _private_pem(key) + certificate.public_bytes(serialization.Encoding.PEM)


def machine_certificate(authority: Path, path: Path, *names: str) -> Path:
    """Writes to ``path`` a certificate and its key for all names of this machine and ``names``,
    signed by the authority that the folder ``authority`` keeps."""
    host = socket.gethostname()
    everything = dict.fromkeys(["localhost", "127.0.0.1", "::1", host, *names])
    _write(path, Authority.kept_in(authority, f"polyrank on {host}").issue(*everything))
    return path


def trusted_with(authority: bytes) -> bytes:
    """The authorities that programs here trust, and one more, for ``SSL_CERT_FILE``."""
    paths = ssl.get_default_verify_paths()  # heeds SSL_CERT_FILE
    files = [paths.cafile] if paths.cafile is not None else []
    if paths.cafile in (None, paths.openssl_cafile):  # nobody chose
        files.append(certifi.where())
    return b"\n".join([*(Path(file).read_bytes() for file in files), authority])


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    beside.replace(path)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - EARLIER,
        not_valid_after=now + VALID,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)

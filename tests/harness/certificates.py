"""A private certificate authority: servers that a client trusts through `ca_file`, and ones that it must refuse."""

import os
import ssl
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class Authority:
    """Certificates of one authority. Another Authority is one that the clients of this one do not know. The certificate
    in the folder is for everybody, because the PostgreSQL server runs as another user; private keys never are."""

    def __init__(self, folder):
        self.ca_file = Path(folder) / "ca.pem"
        self.ca_file.parent.mkdir(parents=True, exist_ok=True)
        self._ca = trustme.CA()
        self._ca.cert_pem.write_to_path(str(self.ca_file))
        self.ca_file.chmod(0o644)

    def server_context(self, *names, expired=False):
        """For a server in this process. Names that are not the server's make the certificate of a wrong host."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._issue(names, expired).configure_cert(context)
        return context

    def server_files(self, folder, *names):
        """Certificate and key as PEM files, for a server in a process of its own that runs as the same user."""
        leaf = self._issue(names)
        certificate, key = Path(folder) / "server.pem", Path(folder) / "server.key"
        certificate.parent.mkdir(parents=True, exist_ok=True)
        certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        key.unlink(missing_ok=True)
        with open(key, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(leaf.private_key_pem.bytes())
        return certificate, key

    def self_signed(self, folder, is_authority):
        """A certificate of 127.0.0.1 that no authority issued, as a PEM file, and the context of a server with it."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        now = datetime.now(timezone.utc)
        address = x509.IPAddress(ip_address("127.0.0.1"))
        made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
                .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
                .not_valid_after(now + timedelta(days=30))
                .add_extension(x509.SubjectAlternativeName([address]), critical=False)
                .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
                .sign(key, hashes.SHA256()))
        certificate, key_file = Path(folder) / "self-signed.pem", Path(folder) / "self-signed.key"
        certificate.write_bytes(made.public_bytes(Encoding.PEM))
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key_file)
        key_file.unlink()
        return certificate, context

    def client_context(self):
        """For a client in this process."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def _issue(self, names, expired=False):
        now = datetime.now(timezone.utc)
        return self._ca.issue_cert(*names or ("localhost", "127.0.0.1"),
                                   not_before=now - timedelta(days=30),
                                   not_after=now + timedelta(days=-1 if expired else 30))

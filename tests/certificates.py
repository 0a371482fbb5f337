"""Certificates for tests: authorities of this process's own, and what they sign, as PEM files."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key


class Authority:
    """A certificate authority that writes what it signs to a folder.

    Parameters
    ----------
    folder
        Where files go.
    name
        Tells its files from those of another one.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self._name = name
        self.certificate = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.certificate)

    def issue(self, *hosts: str, days: int = 1) -> tuple[Path, Path]:
        """Sign a certificate for these hosts, valid for so many days (below 0: no longer).

        Returns the files of its chain and of its private key.
        """
        now = datetime.now(timezone.utc)
        leaf = self._ca.issue_cert(*hosts, not_before=now - timedelta(days=9), not_after=now + timedelta(days=days))
        key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
        stem = f"{self._name}-{hosts[0]}-{days}"
        chain, private = self._folder / f"{stem}.chain", self._folder / f"{stem}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        # PKCS 8, the one kind that Kafka takes.
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return chain, private

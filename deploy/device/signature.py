"""Ed25519 signatures over the exact bytes of a manifest.

The manifest has the SHA-256 of every file, so the signature covers the whole bundle. The package
``cryptography`` is imported only when a signature is made or must be checked.

Reference: RFC 8032.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.errors import EngineUnavailable, InputError
from ..core.files import read_bytes

SIGNATURE_BYTES = 64
_MAX_KEY_BYTES = 1 << 16


class SignatureError(InputError):
    """A signature that is required is missing or wrong."""


def sign(data: bytes, private_key: Path) -> bytes:
    """Return the signature, 64 bytes, of ``data``; the same for the same key and data.

    Args:
        data: the manifest's bytes.
        private_key: Ed25519, PEM (PKCS #8), not encrypted; ``openssl genpkey -algorithm ed25519``
            makes one.

    Raises:
        InputError: the file is missing or no such key.
        EngineUnavailable: the package cryptography is not installed.
    """
    key = _load(private_key, "private")
    signature: bytes = key.sign(data)
    return signature


def require_signature(data: bytes, signature: bytes | None, public_key: Path) -> None:
    """Check that ``signature`` is the key owner's over ``data``.

    Args:
        data: the manifest's bytes.
        signature: None where the bundle has none.
        public_key: Ed25519, PEM; ``openssl pkey -in KEY -pubout`` gives it.

    Raises:
        SignatureError: there is no signature, or it is not of this key over these bytes.
        InputError: the key file is missing or no such key.
        EngineUnavailable: the package cryptography is not installed.
    """
    key = _load(public_key, "public")
    if signature is None:
        raise SignatureError(
            "the bundle is not signed, but a signature is required; make it with: qadtr bundle … "
            "--sign KEY"
        )
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(
            f"the signature has {len(signature)} bytes, expected {SIGNATURE_BYTES}"
        )
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, data)
    except InvalidSignature as error:
        raise SignatureError(
            f"the signature is not that of {public_key.name} over this manifest: the bundle was "
            "changed after it was signed, or signed by someone else"
        ) from error


def _load(path: Path, kind: str) -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
        from cryptography.hazmat.primitives.serialization import (
            load_pem_private_key,
            load_pem_public_key,
        )
    except ImportError as error:
        raise EngineUnavailable(
            f"signatures need the package cryptography ({error}); "
            "install it: pip install cryptography"
        ) from error
    data = read_bytes(path)
    if len(data) > _MAX_KEY_BYTES:
        raise InputError(f"{path} has {len(data)} bytes: it is not a key")
    try:
        if kind == "private":
            key: Any = load_pem_private_key(data, password=None)
            fits = isinstance(key, ed25519.Ed25519PrivateKey)
        else:
            key = load_pem_public_key(data)
            fits = isinstance(key, ed25519.Ed25519PublicKey)
    except Exception as error:  # cryptography's own errors have no common base
        raise InputError(
            f"{path} is not a readable {kind} key in PEM form: {' '.join(str(error).split())}"
        ) from error
    if not fits:
        raise InputError(f"{path} holds a {kind} key that is not an Ed25519 key")
    return key

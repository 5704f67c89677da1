"""Makes a server's homeserver.yaml out of the example that the project ships."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from signedjson.key import generate_signing_key, write_signing_keys

from tests.harness.database import Database
from tests.harness.process import REPOSITORY

EXAMPLE = REPOSITORY / "example_homeserver.yaml"

# What a homeserver.yaml has in `modules`.
Module = dict[str, Any]


def write_config(
    folder: Path,
    *,
    client_port: int,
    federation_port: int,
    database: Database,
    modules: Sequence[Module] | None = None,
    extra_modules: Sequence[Module] = (),
    log_level: str = "INFO",
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes homeserver.yaml, log.yaml and the keys of a server, as far as they are not there yet.

    Args:
        folder: Where to; the server keeps everything else in there too.
        client_port: The plain port for clients.
        federation_port: The TLS port for other servers, which the server's name contains.
        database: The server's database.
        modules: The modules to load; None for those of the example, that is, ours.
        extra_modules: Modules to load besides.
        log_level: The level of Synapse's log.
        overrides: Settings that go over everything else; mappings are merged.

    Returns:
        The configuration that was written.
    """
    config: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    ports = {"client": client_port, "federation": federation_port}
    for listener in config["listeners"]:
        listener["port"] = ports[listener["resources"][0]["names"][0]]
    if (overrides or {}).get("enable_metrics"):
        # On the plain port, at /_synapse/metrics.
        config["listeners"][0]["resources"][0]["names"].append("metrics")
    if modules is not None:
        config["modules"] = list(modules)
    config["modules"] += extra_modules
    _merge(
        config,
        {
            "server_name": f"127.0.0.1:{federation_port}",
            "public_baseurl": f"http://127.0.0.1:{client_port}/",
            "database": database.synapse_config(),
            "log_config": str(folder / "log.yaml"),
            **{
                name: str(folder / config[name])
                for name in (
                    "tls_certificate_path",
                    "tls_private_key_path",
                    "signing_key_path",
                    "media_store_path",
                    "pid_file",
                )
            },
        },
    )
    _merge(config, overrides or {})
    folder.mkdir(parents=True, exist_ok=True)
    write_keys(config)
    (folder / "log.yaml").write_text(yaml.safe_dump(_log_config(log_level)))
    (folder / "homeserver.yaml").write_text(yaml.safe_dump(config))
    return config


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for name, value in source.items():
        if isinstance(value, Mapping) and isinstance(target.get(name), dict) and name != "database":
            _merge(target[name], value)
        else:
            target[name] = value


def _log_config(level: str) -> dict[str, Any]:
    line = "%(asctime)s - %(name)s - %(lineno)d - %(levelname)s - %(request)s - %(message)s"
    return {
        "version": 1,
        "formatters": {"line": {"format": line}},
        "handlers": {"output": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": level, "handlers": ["output"]},
        "disable_existing_loggers": False,
    }


def write_keys(config: Mapping[str, Any]) -> None:
    signing_key = Path(config["signing_key_path"])
    if not signing_key.exists():
        with signing_key.open("w") as file:
            write_signing_keys(file, [generate_signing_key("a_" + secrets.token_hex(2))])
    certificate = Path(config["tls_certificate_path"])
    if not certificate.exists():
        _write_certificate(certificate, Path(config["tls_private_key_path"]))


def _write_certificate(certificate: Path, private_key: Path) -> None:
    """Writes a new key, and a certificate that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )

"""How Terraform talks to a provider: gRPC over a socket, agreed on standard output (go-plugin)."""

import base64
import datetime
import importlib.util
import sysconfig
import tempfile
import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf import empty_pb2
from google.protobuf.message_factory import GetMessageClass


def _protocol() -> ModuleType:
    """Terraform's protocol 6 as generated for pyvider, loaded without pyvider's dependencies."""
    generated = "pyvider/protocols/tfprotov6/protobuf/tfplugin6_pb2.py"
    path = Path(sysconfig.get_path("purelib"), generated)
    spec = importlib.util.spec_from_file_location("tfplugin6_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pb: Any = _protocol()  # its classes are made at run time, so there is nothing to check types by


def serve(provider: object) -> None:
    """Answers Terraform until it says stop. A call that the provider has no method for is empty."""
    stopped = threading.Event()
    calls = {}
    for method in pb.DESCRIPTOR.services_by_name["Provider"].methods:
        call = getattr(provider, method.name, None)
        calls[method.name] = _handler(
            call, GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        )
    stop = _handler(lambda _: stopped.set(), empty_pb2.Empty, empty_pb2.Empty)

    key, certificate = _certificate()
    credentials = grpc.ssl_server_credentials(
        [
            (
                key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
                certificate.public_bytes(Encoding.PEM),
            )
        ]
    )
    with tempfile.TemporaryDirectory() as directory:
        server = grpc.server(
            futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)]
        )
        for service, handlers in {
            "tfplugin6.Provider": calls,
            "plugin.GRPCController": {"Shutdown": stop},
        }.items():
            server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler(service, handlers)]
            )
        server.add_secure_port(f"unix:{directory}/socket", credentials)
        server.start()
        encoded = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode().rstrip("=")
        print(f"1|6|unix|{directory}/socket|grpc|{encoded}", flush=True)
        stopped.wait()
        server.stop(grace=0.2).wait()


def _handler(call: Callable[[Any], Any] | None, request: Any, reply: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        lambda message, _: (call and call(message)) or reply(),
        request.FromString,
        reply.SerializeToString,
    )


def _certificate() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Both sides prove themselves; Terraform trusts the certificate that it reads from stdout."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    return key, (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )

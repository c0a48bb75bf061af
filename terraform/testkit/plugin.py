"""How Terraform talks to a provider that runs already: gRPC over a socket that it is told of.

Terraform starts the providers that it installed, dozens of times in one `terraform test`. One that
`TF_REATTACH_PROVIDERS` names it uses as it is, which makes the tests five times as fast.
"""

import json
import os
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

ADDRESSES = ("registry.terraform.io/hashicorp/aws", "registry.opentofu.org/hashicorp/aws")


def _protocol() -> ModuleType:
    """Terraform's protocol 6 as generated for pyvider, loaded without pyvider's dependencies."""
    generated = "pyvider/protocols/tfprotov6/protobuf/tfplugin6_pb2.py"
    path = Path(sysconfig.get_path("purelib"), generated)
    loader = SourceFileLoader("tfplugin6_pb2", str(path))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module


pb: Any = _protocol()  # its classes are made at run time, so there is nothing to check types by


@contextmanager
def serving(provider: object) -> Iterator[str]:
    """Serves, and gives the value of TF_REATTACH_PROVIDERS.

    A call of the protocol that the provider has no method for is answered with nothing.
    """
    handlers = {}
    for method in pb.DESCRIPTOR.services_by_name["Provider"].methods:
        handlers[method.name] = _handler(
            getattr(provider, method.name, None),
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
        )
    server = grpc.server(
        futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)]
    )
    service = grpc.method_handlers_generic_handler("tfplugin6.Provider", handlers)
    server.add_generic_rpc_handlers([service])
    with tempfile.TemporaryDirectory() as directory:
        socket = f"{directory}/socket"
        server.add_insecure_port(f"unix:{socket}")
        server.start()
        attachment = {
            "Protocol": "grpc",
            "ProtocolVersion": 6,
            "Pid": os.getpid(),
            "Test": True,  # Terraform leaves it running
            "Addr": {"Network": "unix", "String": socket},
        }
        yield json.dumps(dict.fromkeys(ADDRESSES, attachment))
        server.stop(grace=0.2).wait()


def _handler(call: Callable[[Any], Any] | None, request: Any, reply: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        lambda message, _: (call and call(message)) or reply(),
        request.FromString,
        reply.SerializeToString,
    )
